"""Codes are decoded by the codebooks that they were made with, or not at all."""

import shutil
from types import SimpleNamespace

import builders
import pytest
import torch

from espnet_mtkd.bin import mtkd_extract
from espnet_mtkd.errors import TargetStoreError
from espnet_mtkd.targets.teacher import CachedTeacher
from espnet_mtkd.teachers.base import parse_teachers

NAMES = ("codebooks.safetensors", "codebooks.json", "train/plan.json")


@pytest.fixture(scope="module")
def made(checkpoints, tmp_path_factory):
    """Codes of one teacher for two data sets, and another extraction's codebooks."""
    folder = tmp_path_factory.mktemp("codes")
    for seed, name in ((11, "train"), (12, "valid"), (77, "other")):
        builders.build_data_dir(folder / name, 16, seed)
    entry = dict(name="whisper", upstream="whisper_local")
    entry["path_or_url"] = str(checkpoints["whisper_local"])
    teachers = builders.write_yaml(folder / "teachers.yaml", [entry])

    def command(out_dir, *names):
        data = [str(folder / name) for name in names]
        return [
            *("--teachers", str(teachers), "--data_dir", *data),
            *("--out_dir", str(out_dir), "--num_codebooks", "4"),
        ]

    mtkd_extract.main(command(folder / "t", "train", "valid"))
    mtkd_extract.main(command(folder / "t_other", "other"))
    config = parse_teachers(str(teachers))[0]
    return SimpleNamespace(folder=folder, command=command, config=config)


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the teacher's folder to do harm to."""
    return shutil.copytree(made.folder / "t", tmp_path / "t") / "whisper"


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def refusal(command, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        mtkd_extract.main(command)
    assert end.value.code == 5
    return capsys.readouterr().err


def verify(folder, capsys) -> str:
    return refusal(["--out_dir", str(folder.parent), "--verify"], capsys)


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_byte_is_found_by_verify(made, copy, capsys, name):
    path = copy / name
    original = path.read_bytes()
    for position in range(0, len(original), max(1, len(original) // 40)):
        damaged = bytearray(original)
        damaged[position] ^= 0x04
        path.write_bytes(damaged)
        assert str(path) in verify(copy, capsys)
        if name == NAMES[0]:
            with pytest.raises(TargetStoreError, match="codebooks.*remove that file"):
                CachedTeacher(made.config, copy.parent)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("damage", ["flipped", "cut", "removed"])
@pytest.mark.remedy(
    "codebooks of another extraction",
    "run mtkd_extract (again)",
)
def test_the_remedy_for_what_lies_beside_the_shards_helps(
    made, copy, capsys, name, damage
):
    path = copy / name
    original = files_of(copy)
    command = made.command(copy.parent, "train", "valid")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x01
    path.write_bytes(raw if damage == "flipped" else raw[:-9])
    if damage != "removed":
        message = refusal(command, capsys)
        assert str(path) in message and "remove that file" in message
    path.unlink()
    mtkd_extract.main([*command, "--verify"])
    assert files_of(copy) == original


def test_codebooks_of_another_extraction_do_not_decode(made, copy, capsys):
    batch = torch.zeros(1, 32000), torch.tensor([32000])
    for name in NAMES[:2]:
        shutil.copy(made.folder / "t_other/whisper" / name, copy / name)
    with pytest.raises(TargetStoreError, match="codebooks of another extraction"):
        CachedTeacher(made.config, copy.parent)(*batch)
    assert "codebooks of another extraction" in verify(copy, capsys)
    for names in (("train", "valid"), ("other",)):
        message = refusal(made.command(copy.parent, *names), capsys)
        assert "codebooks of another extraction" in message
    assert not (copy / "other").exists()


@pytest.mark.remedy(
    "the codebooks trained now are not those",
)
def test_lost_codebooks_are_not_replaced_by_those_of_other_data(made, copy, capsys):
    original = files_of(copy)
    for name in NAMES[:2]:
        (copy / name).unlink()
    message = refusal(made.command(copy.parent, "other"), capsys)
    assert f"the codes in {copy / 'train'}, {copy / 'valid'}" in message
    assert not (copy / NAMES[0]).exists() and not (copy / "other").exists()
    mtkd_extract.main(made.command(copy.parent, "train"))
    assert files_of(copy) == original
    mtkd_extract.main(made.command(copy.parent, "other"))  # now it joins
    found = files_of(copy)
    assert {k: found[k] for k in original} == original
    assert "other/manifest.json" in found
