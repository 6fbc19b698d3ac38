"""What is wrong with the data is said before the first step, with names and numbers."""

from pathlib import Path

import builders
import numpy as np
import pytest
import soundfile
import torch

from espnet_mtkd.bin import mtkd_extract
from espnet_mtkd.bin.mtkd_train import main
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.pretraining.check import (
    CheckedBatches,
    check_accumulation,
    check_speech,
)


@pytest.fixture
def data(corpus, tmp_path):
    """A copy of training and validation set, to do harm to."""
    return builders.copy_data(corpus, tmp_path)


@pytest.fixture
def whisper(checkpoints, tmp_path):
    entry = dict(name="whisper", upstream="whisper_local")
    entry["path_or_url"] = str(checkpoints["whisper_local"])
    return builders.write_yaml(tmp_path / "teachers.yaml", [entry])


def set_length(folder: Path, utt: str, num_samples: int) -> None:
    """In the file of lengths alone."""
    lines = (folder / "speech_shape").read_text().splitlines()
    lines = [f"{utt} {num_samples}" if x.split()[0] == utt else x for x in lines]
    (folder / "speech_shape").write_text("\n".join(lines) + "\n")


def utterances(folder: Path) -> list[str]:
    return [x.split()[0] for x in (folder / "speech_shape").read_text().splitlines()]


def audio_of(folder: Path, utt: str) -> Path:
    (path,) = folder.glob(f"{utt}.*")
    return path


@pytest.fixture
def refused(stage1_command, corpus, data, whisper, capsys, monkeypatch):
    """Function: exit code and message of a training that never updates its student."""

    def run(*extra, config=None):
        words = stage1_command(data / "exp", whisper, config=config, extra=extra)
        for name in ("train", "valid"):
            old, new = str(getattr(corpus, name)), str(data / name)
            words = [x.replace(old, new) for x in words]
        steps = []
        monkeypatch.setattr(torch.optim.Adam, "step", lambda *a, **k: steps.append(1))
        with pytest.raises(SystemExit) as end:
            main(words)
        assert not steps
        return end.value.code, capsys.readouterr().err

    return run


def store(data, whisper, *names):
    mtkd_extract.main(
        [
            *("--teachers", str(whisper), "--form", "fp16"),
            *("--data_dir", *(str(data / name) for name in names)),
            *("--out_dir", str(data / "t")),
        ]
    )
    return "--targets_dir", str(data / "t")


# ------------------------------------------------------------- targets


@pytest.mark.parametrize("part", ["valid", "unlabelled"])
def test_a_set_without_stored_targets_is_named(data, whisper, refused, part):
    extra = store(data, whisper, *{"train", "valid"} - {part})
    folder = data / part
    if part == "unlabelled":
        builders.build_data_dir(folder, 12, 5)
        extra += ("--unlabelled_wav_scp", str(folder / "wav.scp"))
        extra += ("--unlabelled_shape_file", str(folder / "speech_shape"))
    code, error = refused(*extra)
    utts = utterances(folder)
    assert code == 5
    assert f"{len(utts)} of {len(utts)} utterances of {part} have no targets" in error
    assert all(utt in error for utt in utts[:10])
    assert ("and 2 more" in error) == (len(utts) > 10)


def test_an_utterance_that_was_added_or_changed_is_named(data, whisper, refused):
    extra = store(data, whisper, "train", "valid")
    utt = utterances(data / "train")[-1]
    set_length(data / "train", utt, 20000)
    code, error = refused(*extra)
    assert code == 5 and "another length" in error and f"{utt} (20000" in error


@pytest.mark.parametrize("part", ["train", "valid"])
def test_an_utterance_longer_than_a_teacher_hears_is_named(data, refused, part):
    utts = utterances(data / part)
    for utt in utts[1:3]:
        set_length(data / part, utt, 31 * 16000)
    code, error = refused()
    assert code == 4 and f"2 of {len(utts)} utterances are too long" in error
    assert f"{part}/{utts[1]}: 31.0 s" in error and "at most 30 s" in error


# ------------------------------------------------------------- the student


def test_utterances_that_are_too_short_for_the_student_are_named(data, refused):
    utts = utterances(data / "valid")
    set_length(data / "valid", utts[0], 900)
    code, error = refused()
    assert code == 4 and f"{utts[0]} (900)" in error and "--min_wav_duration" in error


def test_a_delay_longer_than_the_audio_is_refused(refused):
    code, error = refused("--target_delay", "2000")
    assert code == 4 and "--target_delay 2000 frames" in error


def test_more_batches_for_a_step_than_an_epoch_has(refused):
    code, error = refused(config=builders.mtkd_config(accum_grad=40))
    assert code == 2 and "accum_grad: expected at most" in error and "found 40" in error
    check_accumulation(3, 3)
    with pytest.raises(ConfigError, match="at most 3, .*found 4"):
        check_accumulation(3, 4)


# ------------------------------------------------------------- audio


@pytest.mark.parametrize(
    "change, rate, word",
    [
        (lambda x: x, 8000, "8000 Hz"),
        (lambda x: np.stack([x, x], 1), 16000, "channels: 2"),
    ],
)
def test_one_file_of_another_rate_or_in_stereo_is_named(
    data, refused, change, rate, word
):
    utt = utterances(data / "train")[7]
    path = audio_of(data / "train", utt)
    soundfile.write(path, change(soundfile.read(path)[0]), rate)
    code, error = refused()
    assert code == 4 and f"1 of 12 files otherwise: {utt} (" in error and word in error


def test_samples_that_are_no_numbers_are_named(data, refused):
    utt = utterances(data / "valid")[2]
    wave, _ = soundfile.read(audio_of(data / "valid", utt), dtype="float32")
    wave[100] = np.nan
    path = data / "valid" / f"{utt}.wav"
    soundfile.write(path, wave, 16000, subtype="FLOAT")
    scp = data / "valid/wav.scp"
    scp.write_text(scp.read_text().replace(f"{utt}.flac", f"{utt}.wav"))
    # The validation set is heard after the first epoch, in which nothing is wrong.
    utt = utterances(data / "train")[2]
    wave[100] = np.inf
    path = data / "train" / f"{utt}.wav"
    soundfile.write(path, wave, 16000, subtype="FLOAT")
    scp = data / "train/wav.scp"
    scp.write_text(scp.read_text().replace(f"{utt}.flac", f"{utt}.wav"))
    code, error = refused()
    assert code == 4 and f"train/{utt}" in error and "NaN or infinite" in error


def test_batches_are_looked_at_one_by_one():
    good = ["a", "b"], {"speech": torch.zeros(2, 5)}
    bad = ["c", "d"], {"speech": torch.tensor([[0.0, 1.0], [0.0, torch.inf]])}
    batches = CheckedBatches([good, bad, good])
    assert len(batches) == 3
    rest = iter(batches)
    assert next(rest) == good
    with pytest.raises(DataError, match="1 utterances of a batch .*: d: repair"):
        next(rest)
    with pytest.raises(DataError, match="utterance a: expected one channel, found 3"):
        check_speech(["a"], torch.zeros(1, 5, 3))


def test_files_of_two_rates_are_named_when_espnet_meets_them():
    """Beyond those whose headers are looked at."""

    def mixed():
        yield ["a"], {"speech": torch.zeros(1, 5)}
        raise RuntimeError("Sampling rates are mismatched: 16000 != 8000")

    def explain():
        raise DataError("b (8000 Hz)")

    with pytest.raises(DataError, match="8000 Hz"):
        list(CheckedBatches(mixed(), explain))
    with pytest.raises(RuntimeError, match="mismatched"):
        list(CheckedBatches(mixed()))


@pytest.mark.parametrize("name", ["wav.scp", "speech_shape"])
@pytest.mark.parametrize("part", ["train", "valid"])
def test_a_text_file_in_latin_1_is_named_with_its_line(data, refused, name, part):
    path = data / part / name
    lines = path.read_bytes().splitlines()
    lines.insert(1, "M\u00fcller 16000".encode("latin-1"))
    path.write_bytes(b"\n".join(lines) + b"\n")
    code, error = refused()
    assert code == 4 and f"{path}:2: not UTF-8" in error


@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize("kind", ["cut", "gone", "nan"])
def test_one_bad_file_of_many_is_named_before_the_first_step(data, refused, part, kind):
    """Whose header is as it should be, or whose lengths nobody has checked."""
    utt = utterances(data / part)[-1]
    path = audio_of(data / part, utt)
    scp = data / part / "wav.scp"
    wave, rate = soundfile.read(path, dtype="float32")
    if kind == "gone":
        path.unlink()
    elif kind == "cut":
        wav = path.with_suffix(".wav")
        soundfile.write(wav, wave, rate)
        wav.write_bytes(wav.read_bytes()[: len(wave)])
        scp.write_text(scp.read_text().replace(f"{utt}.flac", f"{utt}.wav"))
    else:
        wave[-1] = np.nan
        soundfile.write(path.with_suffix(".wav"), wave, rate, subtype="FLOAT")
        scp.write_text(scp.read_text().replace(f"{utt}.flac", f"{utt}.wav"))
    code, error = refused()
    assert code == 4 and utt in error and "Traceback" not in error
    assert str(data / part) in error
