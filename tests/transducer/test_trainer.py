"""Stage 2, begun by hand on a Kaldi directory: what is wrong is said before a step."""

import builders
import numpy as np
import pytest
import soundfile
import torch

from espnet_mtkd.bin import mtkd_espnet


@pytest.fixture
def data(corpus, tmp_path):
    """A copy of training and validation set, to do harm to."""
    return builders.copy_data(corpus, tmp_path)


@pytest.fixture
def refused(data, corpus, capsys, monkeypatch):
    """Function: exit code and message of a training without a single step."""

    def run() -> tuple[int, str]:
        config = builders.write_yaml(data / "c.yaml", builders.asr_config("conformer"))
        words = ["-m", "espnet2.bin.asr_train", "--token_type", "char", "--ngpu", "0"]
        words += ["--config", config, "--token_list", corpus.tokens]
        for name in ("train", "valid"):
            flag = f"--{name}_data_path_and_name_and_type"
            words += [flag, f"{data / name}/wav.scp,speech,sound"]
            words += [flag, f"{data / name}/text,text,text"]
            words += [f"--{name}_shape_file", f"{data / name}/speech_shape"]
        steps = []
        monkeypatch.setattr(torch.optim.Adam, "step", lambda *a, **k: steps.append(1))
        with pytest.raises(SystemExit) as end:
            mtkd_espnet.main([str(x) for x in [*words, "--output_dir", data / "exp"]])
        assert not steps
        return end.value.code, capsys.readouterr().err

    return run


def lines_of(path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def bad_audio(folder, kind) -> str:
    """Replaces an utterance's audio; what is to be said."""
    line = lines_of(folder / "wav.scp")[-1]
    utt, path = line.split()
    wave, rate = soundfile.read(path, dtype="float32")
    other = f"{path}.wav"
    subtype = None
    if kind == "nan":
        wave[5], subtype = np.nan, "FLOAT"
    elif kind == "stereo":
        wave = np.stack([wave, wave], 1)
    elif kind == "short":
        wave = wave[:160]
    elif kind == "rate":
        rate = 44100
    soundfile.write(other, wave, rate, subtype)
    if kind == "cut":
        with open(other, "r+b") as file:
            file.truncate(len(wave))
    if kind == "gone":
        other += ".gone"
    scp = folder / "wav.scp"
    scp.write_text(scp.read_text().replace(path, other))
    return utt


@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize("kind", ["nan", "stereo", "short", "rate", "cut", "gone"])
def test_bad_audio(data, refused, part, kind):
    utt = bad_audio(data / part, kind)
    code, error = refused()
    assert code == 4 and f"{utt} (" in error and str(data / part / "wav.scp") in error


def test_an_utterance_too_short_for_the_student(data, refused):
    """Long enough to be heard at all: ESPnet would end in the middle of an epoch."""
    utt, path = lines_of(data / "train/wav.scp")[-1].split()
    soundfile.write(path, soundfile.read(path)[0][:700], builders.SAMPLE_RATE)
    shapes = data / "train/speech_shape"
    shapes.write_text("".join([*lines_of(shapes)[:-1], f"{utt} 700\n"]))
    code, error = refused()
    assert code == 4 and f"{utt} (700)" in error


def latin_1(path):
    first, *rest = lines_of(path)
    path.write_bytes("".join([first.rstrip(), "\u00fc\n", *rest]).encode("latin-1"))


def twice(path):
    lines = lines_of(path)
    path.write_text("".join([*lines, lines[0]]))


def without_last(path):
    path.write_text("".join(lines_of(path)[:-1]))


@pytest.mark.remedy("add them, or take their lines out of {}")
@pytest.mark.parametrize("part", ["train", "valid"])
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("text", latin_1, ":1: not UTF-8"),
        ("wav.scp", latin_1, ":1: not UTF-8"),
        ("speech_shape", latin_1, ":1: not UTF-8"),
        ("text", twice, "stands here twice (line 1)"),
        ("wav.scp", twice, "stands here twice (line 1)"),
        ("text", without_last, "no line for 1 utterances of"),
        ("wav.scp", without_last, "no line for 1 utterances of"),
    ],
)
def test_bad_lists(data, refused, part, name, change, message):
    path = data / part / name
    change(path)
    code, error = refused()
    assert code == 4 and f"{path}" in error and message in error
