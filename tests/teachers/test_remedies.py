"""What messages about teachers say to do, done as it stands there."""

import importlib.util
import re
import shutil
import sys

import builders
import pytest
import torch

from espnet_mtkd.bin import mtkd_doctor, mtkd_fetch_whisper
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.teachers.base import check_files, parse_teachers
from espnet_mtkd.teachers.fetch import whisper


def teachers(folder, **entry):
    return builders.write_yaml(folder / "t.yaml", [dict(name="t", **entry)])


def refused(capsys, main, *words) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(x) for x in words])
    assert end.value.code in (2, 4)
    return capsys.readouterr().err


def check(path) -> None:
    for config in parse_teachers(str(path)):
        check_files(config)


@pytest.mark.remedy("needs a checkpoint")
def test_a_checkpoint_is_named_beside_it(tmp_path, checkpoints):
    with pytest.raises(ConfigError, match="path_or_url: <path>") as error:
        check(teachers(tmp_path, upstream="hubert_local"))
    line = re.search(r"`(.*)` beside it", str(error.value))[1]
    line = line.replace("<path>", str(checkpoints["hubert_local"]))
    text = f"- name: t\n  upstream: hubert_local\n  {line}\n"
    (tmp_path / "t.yaml").write_text(text)
    check(tmp_path / "t.yaml")


@pytest.mark.remedy(": fetch it: python -m espnet_mtkd.bin.mtkd_fetch_whisper")
def test_the_command_that_fetches_whisper(tmp_path, capsys):
    """As far as it goes without a network: its options are those of the command."""
    path = teachers(tmp_path, upstream="whisper_local", path_or_url="downloads/w")
    with pytest.raises(ConfigError, match="fetch it: ") as error:
        check(path)
    words = re.search(r"mtkd_fetch_whisper (.*)", str(error.value))[1]
    words = words.replace(" (or tiny.en)", "").split()
    args = mtkd_fetch_whisper.get_parser().parse_args(words)
    assert args.model in whisper.TEACHERS and str(args.out_dir) == "downloads/w"


@pytest.mark.remedy("holds other files ({}); name a new directory")
def test_a_directory_with_other_files(tmp_path, capsys, monkeypatch):
    """As far as it goes without the files: the next one is asked for those."""
    monkeypatch.setenv(whisper.MIRROR_VARIABLE, str(tmp_path))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    words = ["--model", "tiny.en", "--source", "mirror", "--out_dir"]
    main = mtkd_fetch_whisper.main
    assert "name a new directory" in refused(capsys, main, *words, tmp_path / "mine")
    message = refused(capsys, main, *words, tmp_path / "new")
    assert "name a new directory" not in message and "in it" in message


@pytest.mark.remedy("Leave it out of extra_conf.", "Of fairseq's models {} can be")
def test_extra_conf_is_left_out(tmp_path, checkpoints):
    entry = dict(upstream="hubert_local", path_or_url=str(checkpoints["hubert_local"]))
    with pytest.raises(ConfigError, match="Leave it out of extra_conf"):
        check(teachers(tmp_path, **entry, extra_conf=dict(fairseq=True)))
    check(teachers(tmp_path, **entry))


@pytest.mark.remedy(
    "Download or copy it again, and compare its size",
    "Download it again, by the link to the file",
    "Take it from its authors anew.",
    "Name the file that the model's authors publish.",
)
@pytest.mark.parametrize("fault", ["cut", "page", "objects", "another kind"])
def test_another_copy_of_a_file(tmp_path, checkpoints, fault):
    path = tmp_path / "w.pt"
    good = checkpoints["wavlm_local"]
    if fault == "cut":
        path.write_bytes(good.read_bytes()[:-5000])
    elif fault == "page":
        path.write_text("<!DOCTYPE html>\n<html><head></head></html>\n")
    elif fault == "objects":
        state = torch.load(good, weights_only=True)
        torch.save({**state, "cfg": {**state["cfg"], "x": torch.nn.Identity()}}, path)
    else:
        torch.save({"state": 1}, path)
    config = teachers(tmp_path, upstream="wavlm_local", path_or_url=str(path))
    with pytest.raises(ConfigError, match="again|anew|authors publish"):
        check(config)
    shutil.copy(good, path)
    check(config)


@pytest.mark.remedy("s3prl is not importable")
def test_a_package_that_is_not_there(tmp_path, capsys, monkeypatch, checkpoints):
    """To install it is for tools/setup.sh, which has done so here."""
    entry = dict(upstream="hubert_local", path_or_url=str(checkpoints["hubert_local"]))
    words = ["--teachers", teachers(tmp_path, **entry)]
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "s3prl", None)
        patch.delitem(sys.modules, "s3prl.hub", raising=False)
        message = refused(capsys, mtkd_doctor.main, *words)
    assert "run tools/setup.sh" in message
    assert (builders.ROOT / "tools/setup.sh").is_file()
    assert importlib.util.find_spec("s3prl")
    mtkd_doctor.main([str(x) for x in words])


@pytest.mark.remedy("nothing to do: give --teachers, --data_dir, or both")
def test_the_doctor_has_something_to_do(tmp_path, capsys, checkpoints):
    assert "give --teachers" in refused(capsys, mtkd_doctor.main)
    entry = dict(upstream="hubert_local", path_or_url=str(checkpoints["hubert_local"]))
    mtkd_doctor.main(["--teachers", str(teachers(tmp_path, **entry))])
