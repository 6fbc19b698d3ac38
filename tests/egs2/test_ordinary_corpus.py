"""A corpus as people have it, from data to tables and archive, as add_a_corpus.md says.

Recordings of several utterances each (`segments`), 44.1 kHz, stereo, mp3; two speakers;
ids that all sets share; long unlabelled recordings; the validation set among the test
sets; three speeds; a streaming student.
"""

import os
import shutil
import subprocess

import builders
import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from espnet_mtkd.data.kaldi import read_lengths, read_lines, read_wav_scp

RATE = 44100
SETS = {"train": 4, "dev": 2, "test": 2}  # recordings
UTTS = 3  # of a recording
OPTIONS = [
    *("--train_set", "train", "--valid_set", "dev", "--test_sets", "test dev"),
    *("--token_type", "char", "--lang", "en", "--ngpu", "0", "--nj", "2"),
    *("--inference_nj", "1", "--num_threads", "1", "--inference_args", "--beam_size 1"),
    *("--speed_perturb_factors", "0.9 1.0 1.1"),
]
RADIO = ("--unlabelled_sets", "data/radio")


def speech(num: int, seconds: float, seed: int) -> np.ndarray:
    """So many stretches of so many seconds, at 44.1 kHz."""
    parts = [builders.speech_like(seconds, seed + i) for i in range(num)]
    return resample_poly(np.concatenate(parts), 441, 160)


def write_corpus(folder) -> None:
    """Stereo mp3, and `<set>.tsv`: recording, speaker, begin, end, words."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for seed, (name, num) in enumerate(SETS.items()):
        rows = []
        for r in range(num):
            parts = [
                builders.speech_like(1.4, 100 * seed + 10 * r + i) for i in range(UTTS)
            ]
            wave = resample_poly(np.concatenate(parts), 441, 160)
            stereo = np.stack([wave, 0.1 * wave[::-1]], 1)
            soundfile.write(folder / f"{name} {r}.mp3", stereo, RATE)
            for i in range(UTTS):
                words = " ".join(rng.choice(builders.WORDS, 2))
                rows.append(
                    f"{name} {r}.mp3\tspk{r % 2}\t{1.4 * i}\t{1.4 * i + 1.3}\t{words}"
                )
        (folder / f"{name}.tsv").write_text("".join(f"{x}\n" for x in rows))
    for r in range(2):
        wave = np.concatenate(
            [builders.speech_like(5, 900 + 10 * r + i) for i in range(5)]
        )
        soundfile.write(folder / f"radio {r}.mp3", resample_poly(wave, 441, 160), RATE)


DATA_SH = """#!/usr/bin/env bash
set -euo pipefail
. ../../TEMPLATE/mtkd1/common.sh
for x in train dev test; do
    mkdir -p "data/${{x}}"
    awk -F '\\t' -v x="${{x}}" -v dir={corpus} '{{
        split($1, name, /[ .]/)
        recording = $2 "-" name[2]
        utt = sprintf("%s-%02d", recording, ++n[recording])
        print utt, recording, $3, $4 > "data/" x "/segments"
        print utt, $5 > "data/" x "/text"
        print utt, $2 > "data/" x "/utt2spk"
        if (!seen[$1]++) print recording, dir "/" $1 > "data/" x "/wav.scp"
    }}' {corpus}/"${{x}}.tsv"
    for f in segments text utt2spk wav.scp; do
        LC_ALL=C sort -o "data/${{x}}/${{f}}" "data/${{x}}/${{f}}"
    done
    utils/utt2spk_to_spk2utt.pl "data/${{x}}/utt2spk" > "data/${{x}}/spk2utt"
done
mkdir -p data/radio
for r in 0 1; do echo "r${{r}} {corpus}/radio ${{r}}.mp3"; done > data/radio/wav.scp
log "data: $(wc -l < data/train/text) utterances"
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, checkpoints, warm_python):
    """What a user makes, and the outputs of ladder.sh, of it again, and of packing."""
    if shutil.which("sox") is None:
        pytest.fail(
            "speed perturbation needs sox: tools/setup.sh, or apt-get install sox"
        )
    root = tmp_path_factory.mktemp("ordinary")
    write_corpus(root / "corpus")
    tree = root / "tree"
    tree.mkdir()
    recipe = builders.mirror_recipe(tree, "mini_an4")
    builders.give_python(recipe, warm_python)
    shutil.rmtree(recipe / "conf")
    (recipe / "conf").mkdir()
    for encoder in ("conformer", "contextual_block_conformer"):
        config = builders.asr_config(encoder)
        config.pop("normalize")  # an option of mtkd.sh
        path = recipe / f"conf/train_asr_{encoder}_transducer.yaml"
        builders.write_yaml(path, config)
    builders.write_yaml(recipe / "conf/train_mtkd.yaml", builders.mtkd_config())
    decoding = dict(beam_size=1, transducer_conf=dict(search_type="default"))
    builders.write_yaml(recipe / "conf/decode_asr.yaml", decoding)
    teachers = [
        dict(name=x, upstream=f"{x}_local", path_or_url=str(checkpoints[f"{x}_local"]))
        for x in ("hubert", "wav2vec2")
    ]
    builders.write_yaml(recipe / "conf/teachers.yaml", teachers)
    (recipe / "local/data.sh").write_text(DATA_SH.format(corpus=root / "corpus"))
    setup = builders.ROOT / "egs2/TEMPLATE/mtkd1/setup.sh"
    subprocess.run([setup, recipe], check=True, capture_output=True)
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}

    def run(*command):
        words = [*command, *OPTIONS, "--python", str(warm_python)]
        result = builders.run_group(words, recipe, environment)
        assert result.returncode == 0, result.stdout[-4000:]
        return result.stdout

    epochs = ("--pretrain_epochs", "1", "--head_epochs", "1", "--finetune_epochs", "1")
    ladder = ("./ladder.sh", "--rows", "scratch teachers", *epochs)
    encoder = ("--encoders", "contextual_block_conformer")
    ladder = (*ladder, *encoder)
    first = run(*ladder)
    again = run(*ladder)
    unlabelled = ("--teacher_mode", "cached", "--mtkd_args", "--max_epoch 1")
    first += run("./mtkd.sh", *unlabelled, "--stop_stage", "9", *RADIO)
    return recipe, first, again, run


@pytest.mark.slow
def test_audio_becomes_mono_at_16_khz_a_file_an_utterance(recipe):
    folder = recipe[0] / "dump/raw"
    for name, num in (
        ("train_sp", 3 * 4 * UTTS),
        ("dev", 2 * UTTS),
        ("test", 2 * UTTS),
    ):
        entries = read_wav_scp(folder / name / "wav.scp")
        assert len(entries) == num
        for path in entries.values():
            info = soundfile.info(recipe[0] / path)
            assert (info.samplerate, info.channels) == (16000, 1)
            assert 1.3 / 1.15 < info.duration < 1.3 / 0.85
            assert np.std(soundfile.read(recipe[0] / path)[0]) > 0.01


@pytest.mark.slow
def test_long_unlabelled_recordings_are_used_whole(recipe):
    lengths = read_lengths(recipe[0] / "dump/raw/unlabelled_radio/utt2num_samples")
    assert len(lengths) >= 4 and max(lengths.values()) < 20 * 16000
    assert sum(lengths.values()) == pytest.approx(2 * 25 * 16000, rel=0.01)
    (log,) = (recipe[0] / "exp").glob("mtkd_*unlabelled_radio*/train.log")
    assert "loss_unlabelled=" in log.read_text()
    assert "2 of 2 recordings are longer than --max_wav_duration 20 s" in recipe[1]


@pytest.mark.slow
def test_both_rows_are_scored_on_test_and_on_the_validation_set(recipe):
    folder, first, again, _ = recipe
    text = (folder / "exp/RESULTS.md").read_text()
    rows = [[c.strip() for c in x.split("|")[1:-1]] for x in text.splitlines()]
    found = {
        (r[1], r[2]): r for r in rows if len(r) == 8 and r[0].startswith("context")
    }
    sets = ("dev", "test", "dev, streamed", "test, streamed")
    assert set(found) == {
        (w, s) for w in ("from scratch", "all teachers") for s in sets
    }
    for (_, dset), row in found.items():
        name = dset.partition(",")[0]
        words = read_lines(folder / "data" / name / "text", "text").values()
        assert int(row[3]) == sum(len(x.split()) for x in words)
        assert 0 < float(row[4]) and 0 < float(row[6])
    # The ids of dev are those of test: each was judged by its own words and audio.
    ids = [set(read_lines(folder / f"data/{x}/text", "text")) for x in ("dev", "test")]
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_the_second_run_repeats_nothing(recipe):
    lines = [x for x in recipe[2].splitlines() if "run_stage) Stage" in x]
    assert len(lines) > 20
    assert all(x.endswith("finished before") for x in lines)


@pytest.mark.slow
def test_the_student_is_packed(recipe):
    folder, *_, run = recipe
    options = ("--skip_packing", "false", "--license", "cc-by-4.0", "--stage", "14")
    tags = ("--mtkd_tag", "contextual_block_conformer_teachers_stored")
    tags += ("--asr_tag", "contextual_block_conformer_teachers_stored")
    encoder = ("--encoder", "contextual_block_conformer", "--teacher_mode", "cached")
    run("./mtkd.sh", *options, *tags, *encoder)
    assert len(list((folder / "exp").glob("asr_*/*.zip"))) == 1
