"""A recipe whose asr.sh and Python do nothing but write what later stages look for.

They stand for hours of training: what is tested with them is mtkd.sh itself, which
stages it runs and when. Each call is a line of `calls`. The recipes' own tests run the
real ones.
"""

import os
import subprocess
import sys
from pathlib import Path

import builders

ASR_SH = """#!/usr/bin/env bash
set -e
while [ $# -gt 0 ]; do printf -v "o_${1#--}" %s "$2"; shift 2; done
sets="${o_train_set} ${o_valid_set} ${o_test_sets}"
args=${o_asr_args// /,}
echo "asr ${o_stage} sets=${sets// /,} exp=${o_asr_exp} args=${args}" >> calls
case ${o_stage} in
    3 | 4)
        for x in ${sets}; do
            for d in "${o_dumpdir}/raw/${x}" "${o_dumpdir}/raw/org/${x}"; do
                mkdir -p "${d}"
                [ ! -f "data/${x}/wav.scp" ] || cp "data/${x}/wav.scp" "${d}/wav.scp"
                [ -f "${d}/wav.scp" ] || echo "u x.flac" > "${d}/wav.scp"
                sed 's/ .*/ 32000/' "${d}/wav.scp" > "${d}/utt2num_samples"
            done
        done ;;
    10)
        mkdir -p "${o_asr_stats_dir}/train"
        touch "${o_asr_stats_dir}/train/feats_stats.npz" ;;
    11)
        mkdir -p "${o_asr_exp}"
        touch "${o_asr_exp}"/{valid.loss.best.pth,valid.loss.ave.pth}
        [ ! -e checkpoints ] || touch "${o_asr_exp}/checkpoint.pth"
        sleep "${STUB_SLEEP:-0}" ;;
esac
"""
PYTHON = """#!/usr/bin/env bash
case "$*" in
    *mtkd_preflight* | *mtkd_format_audio* | -c*)
        exec "${{STUB_PYTHON:-{python}}}" "$@" ;;
    *mtkd_ladder*) exec "{python}" "$@" ;;
esac
echo "python $*" >> calls
next=
for word in "$@"; do
    case ${{next}} in --out_dir | --output_dir) mkdir -p "${{word}}" ;; esac
    next=${{word}}
done
case "$*" in
    *espnet2.bin.launch*)
        [ ! -e checkpoints ] || touch "${{word%/*}}/exp/mtkd_m/checkpoint.pth"
        sleep "${{STUB_SLEEP:-0}}" ;;
esac
"""
RUN_PL = """#!/usr/bin/env bash
while [[ $1 = --* ]]; do shift 2; done
[[ $1 != JOB=* ]] || shift
mkdir -p "$(dirname "$1")"
"${@:2}" > "$1" 2>&1
"""
FORMAT = """#!/usr/bin/env bash
mkdir -p "${@: -1}"
cp "${@: -2:1}" "${@: -1}/wav.scp"
sed 's/ .*/ 32000/' "${@: -1}/wav.scp" > "${@: -1}/utt2num_samples"
"""


def build(folder: Path) -> Path:
    """The recipe's directory, with two utterances in each of its data directories."""
    template = builders.ROOT / "egs2/TEMPLATE/mtkd1"
    recipe = folder / "egs2/stub/mtkd1"
    for name in ("conf", "local", "bin", "scripts/audio", "scripts/utils"):
        (recipe / name).mkdir(parents=True)
    (folder / "egs2/TEMPLATE").symlink_to(builders.ROOT / "egs2/TEMPLATE")
    for path in template.glob("conf/*.yaml"):
        (recipe / "conf" / path.name).write_text(path.read_text())
    for name in ("mtkd.sh", "ladder.sh"):
        (recipe / name).symlink_to(template / name)
    asr1 = builders.ROOT / "tools/espnet/egs2/TEMPLATE/asr1"
    (recipe / "utils").symlink_to(asr1 / "utils")
    (recipe / "conf/teachers.yaml").write_text("- {name: a, upstream: whisper_tiny}\n")
    (recipe / "path.sh").write_text('export PATH="${PWD}/bin:${PATH}"\n')
    (recipe / "cmd.sh").write_text(
        "train_cmd=run.pl cuda_cmd=run.pl decode_cmd=run.pl\n"
    )
    scripts = {
        "asr.sh": ASR_SH,
        "bin/python3": PYTHON.format(python=sys.executable),
        "bin/run.pl": RUN_PL,
        "scripts/audio/format_wav_scp.sh": FORMAT,
        "scripts/utils/show_asr_result.sh": "#!/usr/bin/env bash\n",
        "local/data.sh": "#!/usr/bin/env bash\n",
    }
    for name, text in scripts.items():
        (recipe / name).write_text(text)
        (recipe / name).chmod(0o755)
    for name in ("train", "other_train", "valid", "test", "new", "es"):
        add_set(recipe / "data" / name, with_text=name != "es")
    for exp in ("teacher", "teacher2"):
        (recipe / f"exp/asr_{exp}").mkdir(parents=True)
        for model in ("valid.loss.ave.pth", "valid.loss.best.pth"):
            (recipe / f"exp/asr_{exp}/{model}").touch()
    (recipe / "calls").touch()
    return recipe


def add_set(folder: Path, with_text: bool) -> None:
    """A data directory of two files that are no audio (nothing here reads them)."""
    folder.mkdir(parents=True)
    utts = [f"{folder.name}-{i}" for i in range(2)]
    for utt in utts:
        (folder / f"{utt}.flac").write_text(utt)
    lines = {"wav.scp": [f"{u} {folder}/{u}.flac" for u in utts]}
    if with_text:
        lines["text"] = [f"{u} ONE TWO" for u in utts]
        lines["utt2spk"] = [f"{u} {u}" for u in utts]
    for name, content in lines.items():
        (folder / name).write_text("".join(f"{x}\n" for x in content))


OPTIONS = {
    **dict(train_set="train", valid_set="valid", test_sets="test", lang="en"),
    **dict(token_type="char", ngpu="0", nj="1", num_threads="1"),
}


def run(
    recipe: Path, env: dict | None = None, **options
) -> subprocess.CompletedProcess:
    """mtkd.sh with these options instead of or beside the usual ones; output joined."""
    words = [x for k, v in {**OPTIONS, **options}.items() for x in (f"--{k}", v)]
    environment = {**os.environ, "PYTHONPATH": str(builders.ROOT), **(env or {})}
    return builders.run_group(["./mtkd.sh", *words], recipe, environment)


def calls(recipe: Path) -> list[str]:
    """What was called since the last time this was asked."""
    path = recipe / "calls"
    found = path.read_text().splitlines()
    path.write_text("")
    return found


def extractions(lines: list[str]) -> list[str]:
    """The calls that extract targets of teachers."""
    return [x for x in lines if "mtkd_extract " in x and "--teachers" in x]
