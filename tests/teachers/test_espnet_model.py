"""Directories that are no recogniser of ESPnet, and what their messages say to do."""

import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import builders
import pytest
import torch
import yaml
from espnet2.asr.encoder.rnn_encoder import RNNEncoder
from espnet_models import MODEL, SMALL, build, with_encoder

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers.s3prl import S3PRLTeacher, read_teachers


def load(where) -> None:
    """As a teacher, with all that is tried of it."""
    entry = dict(name="t", upstream="espnet_local", path_or_url=str(where))
    for config in read_teachers([entry]):
        S3PRLTeacher(config)


@pytest.fixture
def folder(models, tmp_path):
    """A copy of the Conformer's directory."""
    return shutil.copytree(models("conformer")[0], tmp_path / "exp/asr_x")


def refused(where) -> str:
    with pytest.raises(ConfigError) as e:
        load(where)
    return str(e.value)


def edit(**changes):
    def change(folder):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        builders.write_yaml(folder / "config.yaml", {**config, **changes})

    return change


def without(key):
    def change(folder):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        del config[key]
        builders.write_yaml(folder / "config.yaml", config)

    return change


def pickled(folder):
    torch.save({"a": SimpleNamespace()}, folder / MODEL)


def two_models(folder):
    (folder / MODEL).rename(folder / "valid.cer.ave.pth")
    shutil.copy(folder / "valid.cer.ave.pth", folder / "valid.wer.ave.pth")


def rnn(folder):
    edit(encoder="rnn", encoder_conf=dict(hidden_size=8, output_size=8, num_layers=1))(
        folder
    )
    state = torch.load(folder / MODEL)
    state = {k: v for k, v in state.items() if not k.startswith("encoder.")}
    encoder = RNNEncoder(80, hidden_size=8, output_size=8, num_layers=1)
    state |= {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    torch.save(state, folder / MODEL)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: (f / "config.yaml").unlink(), ["config.yaml", "exp/asr_teacher"]),
        (lambda f: (f / MODEL).unlink(), [MODEL, "none"]),
        (two_models, ["valid.cer.ave.pth, valid.wer.ave.pth", "name one"]),
        (without("decoder"), ["without decoder", "ASR model"]),
        (edit(teachers=[]), ["stage 1", "mtkd_student"]),
        (edit(frontend_conf=dict(fs="8k")), ["frontend_conf.fs", "expected 16000"]),
        (edit(frontend=None, input_size=80), ["hears waveforms", "input_size: 80"]),
        (edit(encoder="conv"), ["could not build", "conv"]),
        (edit(encoder_conf=dict(num_blocks=7)), ["tensors are not those of"]),
        (rnn, ["list of blocks", "RNNEncoder"]),
        (pickled, ["nothing but tensors"]),
    ],
)
def test_what_cannot_teach_is_refused_with_what_to_do(folder, change, words):
    change(folder)
    message = refused(folder)
    assert "teacher 't'" in message
    assert all(word in message for word in words), message


def several_speakers(folder):
    shutil.rmtree(folder)
    conf = dict(SMALL, linear_units=32, num_blocks_sd=1)
    build(folder, with_encoder("transformer_multispkr", **conf))


@pytest.mark.remedy(
    "name the directory that has it",
    "name a model that was trained on it",
    "it cannot teach from audio",
    "name a model whose encoder does neither",
)
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: (f / "config.yaml").unlink(), "name the directory that has it"),
        (lambda f: (f / MODEL).unlink(), "train it to its end, or"),
        (without("decoder"), "Name an ASR model"),
        (edit(frontend_conf=dict(fs="8k")), "name a model that was trained on it"),
        (edit(frontend=None, input_size=80), "name another"),
        (rnn, "expected one with a list of blocks"),
        (several_speakers, "name a model whose encoder does neither"),
    ],
)
def test_another_model_is_named(folder, models, change, words):
    change(folder)
    assert words in refused(folder)
    load(models("conformer")[0])


@pytest.mark.remedy("expected one model file")
@pytest.mark.parametrize("which", [0, 1])
def test_one_of_two_model_files_is_named(folder, which):
    two_models(folder)
    message = refused(folder)
    assert "name one of them in place of the folder" in message
    names = re.search(r"expected one model file, found (.*): name", message)[1]
    load(folder / names.split(", ")[which])


@pytest.mark.remedy(
    "train it to its end, or name the model file in place of the folder"
)
def test_a_model_file_of_another_name_is_named(folder):
    (folder / MODEL).rename(folder / "3epoch.pth")
    assert "or name the model file in place of the folder" in refused(folder)
    load(folder / "3epoch.pth")


@pytest.mark.remedy("expected the {} of its training beside it")
def test_the_config_is_copied_beside_the_model_file(folder, models):
    (folder / "config.yaml").unlink()
    message = refused(folder / MODEL)
    name = re.search(r"expected the (\S+) of its training", message)[1]
    assert "copy it there" in message
    shutil.copy(models("conformer")[0] / name, folder)
    load(folder / MODEL)


@pytest.mark.remedy("found an archive: unpack it")
@pytest.mark.parametrize("form", ["zip", "gztar", "tar"])
def test_an_archive_is_unpacked(folder, tmp_path, form):
    pack = tmp_path / "pack"
    shutil.move(folder.parent, pack / "exp")
    meta = dict(files=dict(asr_model_file=f"exp/asr_x/{MODEL}"))
    meta["yaml_files"] = dict(asr_train_config="exp/asr_x/config.yaml")
    builders.write_yaml(pack / "meta.yaml", meta)
    archive = shutil.make_archive(str(tmp_path / "a model"), form, pack)
    message = refused(archive)
    command = re.search(r"unpack it \(python (.*) DIR\) and name", message)[1]
    words = [sys.executable, *shlex.split(command), tmp_path / "unpacked"]
    subprocess.run(words, check=True)
    load(tmp_path / "unpacked")
