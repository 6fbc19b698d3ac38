"""speechocean762's data preparation: splits, endings, what has no text, bad input."""

import importlib.util
import subprocess
import sys

import builders
import numpy as np
import pytest
import soundfile

SCRIPT = builders.ROOT / "egs2/speechocean762/mtkd1/local/prepare_speechocean762.py"
spec = importlib.util.spec_from_file_location("prepare_speechocean762", SCRIPT)
prepare = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = prepare  # dataclasses look their module up
spec.loader.exec_module(prepare)

NUM_SPEAKERS = 40


def write_audio(path, seconds, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).normal(size=int(seconds * rate)) * 0.1
    soundfile.write(path, noise, rate, format="WAV" if path.suffix == ".WAV" else None)


@pytest.fixture
def corpus(tmp_path):
    """The corpus's own layout: WAVE/SPEAKER0001/000010011.WAV, tab-separated files."""
    root = tmp_path / "corpus"
    for part, first in (("train", 1), ("test", 1001)):
        lines = {name: [] for name in ("wav.scp", "text", "utt2spk")}
        ages, genders = [], []
        for speaker in range(first, first + NUM_SPEAKERS):
            ages.append(f"{speaker:04d}\t{8 if speaker % 2 else 25}")
            genders.append(f"{speaker:04d}\t{'m' if speaker % 4 < 2 else 'f'}")
            for i in range(2):
                utt = f"0{speaker:04d}{i:04d}"
                audio = f"WAVE/SPEAKER{speaker:04d}/{utt}.WAV"
                write_audio(root / audio, 0.5)
                lines["wav.scp"].append(f"{utt}\t{audio}")
                lines["text"].append(f"{utt}\tWORDS OF {utt[-3:]}")
                lines["utt2spk"].append(f"{utt}\t{speaker:04d}")
        (root / part).mkdir()
        for name, rows in {**lines, "spk2age": ages, "spk2gender": genders}.items():
            (root / part / name).write_text("".join(f"{row}\n" for row in rows))
    return root


def read(folder, name):
    rows = (folder / name).read_text().splitlines()
    return dict(row.split(" ", 1) for row in rows)


def test_train_dev_and_test_share_no_speaker_and_lose_no_utterance(corpus, tmp_path):
    prepare.prepare(corpus, tmp_path / "data", {})
    sets = {n: read(tmp_path / "data" / n, "utt2spk") for n in ("train", "dev", "test")}
    speakers = {name: set(utt2spk.values()) for name, utt2spk in sets.items()}
    assert len(speakers["train"]) + len(speakers["dev"]) == NUM_SPEAKERS
    assert not speakers["train"] & speakers["dev"]
    assert not (speakers["train"] | speakers["dev"]) & speakers["test"]
    assert sum(len(utts) for utts in sets.values()) == 4 * NUM_SPEAKERS
    children = [s for s in speakers["dev"] if int(s) % 2]
    women = [s for s in speakers["dev"] if int(s) % 4 >= 2]
    assert len(speakers["dev"]) == NUM_SPEAKERS // 10
    assert len(children) == len(women) == NUM_SPEAKERS // 20


def test_labelled_part_has_all_speakers_and_the_rest_has_no_text(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(prepare, "LABELLED_SECONDS", 25.0)
    prepare.prepare(corpus, tmp_path / "data", {})
    data = tmp_path / "data"
    train, labelled, rest = (
        read(data / n, "utt2spk") for n in ("train", "train_1h", "train_rest")
    )
    assert train == labelled | rest and not labelled.keys() & rest.keys()
    assert len(labelled) == 50  # of half a second
    assert set(labelled.values()) == set(train.values())
    assert not (data / "train_rest/text").exists()
    assert read(data / "train_1h", "text").keys() == labelled.keys()


def test_a_re_encoded_copy_gives_the_same_sets(corpus, tmp_path):
    prepare.prepare(corpus, tmp_path / "wav", {})
    for path in list(corpus.rglob("*.WAV")):
        samples, rate = soundfile.read(path)
        soundfile.write(path.with_suffix(".ogg"), samples, rate, "OPUS", format="OGG")
        path.unlink()
    prepare.prepare(corpus, tmp_path / "ogg", {})
    for name in ("train", "dev", "test"):
        for file in ("text", "utt2spk", "spk2utt"):
            expected = (tmp_path / "wav" / name / file).read_text()
            assert (tmp_path / "ogg" / name / file).read_text() == expected
        for audio in read(tmp_path / "ogg" / name, "wav.scp").values():
            assert audio.endswith(".ogg") and soundfile.info(audio).frames > 0


def test_unlabelled_folders_by_wav_scp_or_by_what_lies_there(corpus, tmp_path):
    kaldi, plain = tmp_path / "kaldi", tmp_path / "plain"
    write_audio(kaldi / "wav/a.flac", 1)
    write_audio(kaldi / "wav/left_out.flac", 1)
    (kaldi / "all").mkdir()
    (kaldi / "all/wav.scp").write_text("a wav/a.wav\n")
    (kaldi / "all/text").write_bytes(b"\xff not to be read")
    write_audio(plain / "x/b.wav", 1)
    write_audio(plain / "y/b.wav", 1)
    prepare.prepare(corpus, tmp_path / "data", {"k": kaldi, "p": plain})
    assert read(tmp_path / "data/k", "wav.scp") == {"k-a": f"{kaldi}/wav/a.flac"}
    assert read(tmp_path / "data/p", "wav.scp") == {
        "p-x_b": f"{plain}/x/b.wav",
        "p-y_b": f"{plain}/y/b.wav",
    }
    assert not (tmp_path / "data/k/text").exists()


def test_kaldi_finds_nothing_to_complain_of(corpus, tmp_path):
    prepare.prepare(corpus, tmp_path / "data", {})
    asr1 = builders.ROOT / "tools/espnet/egs2/TEMPLATE/asr1"
    for name in ("train", "dev", "test"):
        subprocess.run(
            ["utils/validate_data_dir.sh", "--no-feats", tmp_path / "data" / name],
            cwd=asr1,
            check=True,
            capture_output=True,
        )


def drop_audio(corpus):
    next(corpus.rglob("*.WAV")).unlink()


def change_rate(corpus):
    write_audio(next(corpus.rglob("*.WAV")), 0.5, rate=8000)


def empty_audio(corpus):
    next(corpus.rglob("*.WAV")).write_bytes(b"")


def drop_text_line(corpus):
    path = corpus / "train/text"
    path.write_text(path.read_text().split("\n", 1)[1])


def drop_age(corpus):
    (corpus / "train/spk2age").write_text("0001\t8\n")


def share_speaker(corpus):
    path = corpus / "test/utt2spk"
    path.write_text(path.read_text().replace("\t1001", "\t0001"))


def drop_part(corpus):
    (corpus / "test/wav.scp").unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (drop_audio, "no such file, nor one ending in"),
        (change_rate, "expected mono audio of 16000 Hz, found 1 channel(s) of 8000 Hz"),
        (empty_audio, "not readable as audio"),
        (drop_text_line, "stands in only one of wav.scp and text"),
        (drop_age, "is missing in spk2age or spk2gender"),
        (share_speaker, "speaker 0001 is in train and in test"),
        (drop_part, "no such file: expected a Kaldi file"),
    ],
)
def test_bad_input_is_named_and_writes_nothing(corpus, tmp_path, damage, message):
    damage(corpus)
    result = subprocess.run(
        [sys.executable, SCRIPT, "--corpus", corpus, "--data_dir", tmp_path / "data"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 4
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "data").exists()
