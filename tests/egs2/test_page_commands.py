"""Every command of README and docs runs, in their order, on a tiny recipe.

Not here: run.sh (the recipes' own tests run it), Python commands with `...`, those of
the sound card, and benchmarks.
"""

import os
import subprocess
import sys
from types import SimpleNamespace

import builders
import hub_stub
import mini_librispeech
import pytest
import tiny_whisper
from pages import PAGES, resolved

# What `...` stands for, where a command does not say it itself
COMMON = "--train_set train --valid_set valid --test_sets test --lang en".split()
COMMON += ["--token_type", "char"]
# and what makes each command small.
TINY = "--ngpu 0 --nj 1 --inference_nj 1 --num_threads 1 --nbpe 20".split()
TINY += ["--gpu_inference", "false"]
TINY += ["--valid_set", "valid"]  # (some call it dev)
FIRST_BLOCK = "interctc_layer_idx=[1]"
LADDER = "--pretrain_epochs 1 --head_epochs 1 --finetune_epochs 1".split()


def pages():
    """In an order in which each finds what it names: where a recipe is set up, where
    the teacher transducer is trained, the others."""
    first = ["add_a_corpus.md", "stage2.md"]
    return sorted(PAGES, key=lambda x: first.index(x.name) if x.name in first else 9)


def shell_commands() -> list[list[str]]:
    """Scripts that the pages run, each command once, with all that it leaves out."""
    found = []
    for words in (words for page in pages() for words in resolved(page)):
        script = words[0].removeprefix("./")
        words = [x for x in words if x != "..."]
        if script in ("mtkd.sh", "ladder.sh"):
            for name, value in zip(COMMON[::2], COMMON[1::2], strict=True):
                if name not in words:
                    words += [name, value]
            words += TINY + (LADDER if script == "ladder.sh" else [])
            # The tiny encoder has two blocks, of which the first can have a CTC loss.
            words = [x.replace("interctc_layer_idx=[3]", FIRST_BLOCK) for x in words]
        elif not script.endswith("setup.sh"):
            continue
        if words not in found:
            found.append(words)
    return found


def python_commands() -> list[list[str]]:
    """Commands of the pages that run a module of this package and are whole."""
    left_out = {"...", "--microphone", "|"}  # not whole; no sound card; not one command
    elsewhere = (
        "espnet_mtkd.student.s3prl_upstream"  # tests/student/test_s3prl_upstream.py
    )
    return [
        words[1:]
        for page in pages()
        for words in resolved(page)
        if words[:2] == ["python", "-m"]
        and words[2] != elsewhere
        and not left_out & set(words)
    ]


@pytest.fixture(scope="module")
def site(tmp_path_factory, checkpoints, warm_python, whisper):
    """What the shell commands left in a recipe; of each its exit code and output."""
    folder = tmp_path_factory.mktemp("site")
    recipe = builders.mirror_recipe(folder, "librispeech_100")
    builders.give_python(recipe, warm_python)
    mini_librispeech.shrink(recipe / "conf", checkpoints)
    for path in recipe.glob("conf/train_*.yaml"):
        with open(path, "a") as f:
            f.write("max_epoch: 1\n")
    # In the config: an argument would be in the name of the decoding.
    builders.write_yaml(recipe / "conf/decode_asr.yaml", dict(beam_size=1))
    (recipe / "downloads").mkdir(exist_ok=True)
    (recipe / "downloads/whisper_base_decoder").symlink_to(whisper[0])
    (recipe / "local/data.sh").write_text("# The data directories are there.\n")
    sets = dict(train=8, valid=2, dev=2, test=2, a=3, b=2, untranscribed=2)
    for seed, (name, num_utts) in enumerate(sets.items()):
        data = builders.build_data_dir(recipe / "data" / name, num_utts, seed)
        utts = [line.split()[0] for line in open(data / "wav.scp")]
        for name in ("utt2spk", "spk2utt"):
            (data / name).write_text("".join(f"{utt} {utt}\n" for utt in utts))
    # All letters that the random Whisper writes.
    text = recipe / "data/train/text"
    text.write_text(text.read_text().replace("NINE TWO", "FIVE TWO"))
    (recipe / "speech.wav").symlink_to(next((recipe / "data/test").glob("*.flac")))
    streaming = ["./mtkd.sh", *COMMON, *TINY, "--mtkd_tag", "x", "--asr_tag", "x"]
    streaming += ["--encoder", "contextual_block_conformer"]

    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env.pop("OMP_NUM_THREADS", None)
    results = []
    with hub_stub.serve() as hub:
        env.update(HF_ENDPOINT=hub.url, HF_TOKEN=hub_stub.TOKEN)
        env.update(HF_HUB_DISABLE_XET="1", NO_PROXY="127.0.0.1")
        for words in [*shell_commands(), streaming]:
            if words[0] != "egs2/TEMPLATE/mtkd1/setup.sh":
                # (the warm one has read HF_ENDPOINT long ago)
                upload = "--skip_upload_hf" in words
                words += ["--python", sys.executable if upload else str(warm_python)]
            cwd = folder if words[0].startswith("egs2/") else recipe
            if "--pseudo_whisper" in words:  # (it is a random one)
                open_ = ["--compute_type", "float32", *tiny_whisper.OPEN]
                words += ["--transcribe_args", " ".join(open_), "--asr_tag", "text"]
            result = builders.run_group(words, cwd, env)
            results.append((words, result.returncode, result.stdout))
        uploaded = {name: set(hub.files(name)) for name in hub.repos}
    return SimpleNamespace(dir=recipe, results=results, uploaded=uploaded)


@pytest.mark.slow
def test_shell_commands_run(site):
    assert len(site.results) > 15
    failed = [(words, text[-3000:]) for words, code, text in site.results if code]
    assert not failed
    trained = {path.parent.name for path in site.dir.glob("exp/asr_*/RESULTS.md")}
    assert {
        *(
            "asr_x",
            "asr_teacher",
            "asr_conformer_scratch_char",
            "asr_text",
            "asr_first",
        ),
        "asr_conformer_teachers_bpe20",
        "asr_conformer_teachers_cached_formfp16_char",
        "asr_conformer_teachers_unlabelled_a_b_kd_pseudo_min_confidence0.8_char",
    } < trained
    assert (site.dir / "exp/RESULTS.md").is_file()
    config = "exp/asr_conformer_teachers_char/config.yaml"
    assert config in site.uploaded["user/model"]


@pytest.mark.slow
def test_python_commands_run(site, warm_python):
    found = python_commands()
    assert len(found) > 8
    for words in found:
        result = subprocess.run(
            [warm_python, *words], cwd=site.dir, capture_output=True, text=True
        )
        assert result.returncode == 0, (words, result.stderr[-2000:])
