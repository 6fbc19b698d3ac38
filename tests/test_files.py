"""Files that are whole or not there, and paths that the system does not let us use."""

import os
import socket
import subprocess
import time
from pathlib import Path

import builders
import pytest
import soundfile

from espnet_mtkd.bin import (
    mtkd_doctor,
    mtkd_espnet,
    mtkd_extract,
    mtkd_format_audio,
    mtkd_train,
)
from espnet_mtkd.errors import DiskError, path_error
from espnet_mtkd.files import LEFT_BEHIND, scratch_folder, sweep, write_atomically

NOBODY = 4194305  # above Linux' largest process


@pytest.fixture(params=["read-only", "a file", "nothing can be made"])
def closed(request, tmp_path):
    """A folder in which nothing can be written, and what is said of it."""
    if request.param == "a file":
        (tmp_path / "file").write_text("precious")
        yield tmp_path / "file", "Not a directory"
        assert (tmp_path / "file").read_text() == "precious"
        return
    if request.param == "nothing can be made":
        yield Path("/proc/no"), "No such file or directory"
        return
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k,ro", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk needs root")
    yield folder, "Read-only file system"
    subprocess.run(["umount", str(folder)], check=True)


def of_doctor(out, corpus, *_):
    return mtkd_doctor.main, ["--data_dir", corpus.train, "--out_dir", out]


def of_extract(out, corpus, teachers, _):
    words = ["--teachers", teachers, "--data_dir", corpus.train, "--form", "fp16"]
    return mtkd_extract.main, [*words, "--out_dir", out]


def of_train(out, corpus, teachers, stage1_command):
    return mtkd_train.main, stage1_command(out, teachers)


def of_stage2(out, corpus, *_):
    words = ["-m", "espnet2.bin.asr_train", "--token_type", "char", "--ngpu", "0"]
    words += ["--token_list", corpus.tokens, "--output_dir", out]
    config = builders.asr_config("conformer")
    words += [
        "--config",
        builders.write_yaml(corpus.tokens.with_name("a.yaml"), config),
    ]
    for name in ("train", "valid"):
        flag = f"--{name}_data_path_and_name_and_type"
        folder = getattr(corpus, name)
        words += [flag, f"{folder}/wav.scp,speech,sound"]
        words += [flag, f"{folder}/text,text,text"]
        words += [f"--{name}_shape_file", f"{folder}/speech_shape"]
    return mtkd_espnet.main, words


def of_format(out, corpus, *_):
    return mtkd_format_audio.main, ["--data_dir", corpus.train, "--out_dir", out]


COMMANDS = [of_doctor, of_extract, of_train, of_stage2, of_format]


@pytest.mark.remedy(
    "give its folder the permission (chmod u+rwX) or the space, or name another path",
    "cannot be read or written",
)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_cannot_be_made_is_named(
    closed, command, corpus, two_teachers, stage1_command, tmp_path, capsys
):
    folder, reason = closed
    main, words = command(folder / "new", corpus, two_teachers, stage1_command)
    with pytest.raises(SystemExit) as end:
        main([str(x) for x in words])
    error = capsys.readouterr().err
    assert end.value.code == 6
    assert f"error: {folder}" in error and reason in error
    assert "Traceback" not in error
    if command in (of_doctor, of_format):  # and another path is one that goes
        main, words = command(tmp_path / "out", corpus, two_teachers, stage1_command)
        main([str(x) for x in words])


def test_a_file_that_is_there_is_left_as_it_was(closed):
    folder, reason = closed
    with pytest.raises(DiskError, match=rf"{folder}/x: cannot be .*{reason}"):
        write_atomically(folder / "x", b"new")


def test_what_is_no_matter_of_a_path_keeps_its_traceback():
    assert path_error(ConnectionResetError(104, "reset by peer")) is None
    assert path_error(BrokenPipeError(32, "broken pipe")) is None
    assert path_error(OSError("of a library")) is None
    assert "/a/b: " in str(path_error(PermissionError(13, "denied", b"/a/b")))
    assert "a file: " in str(path_error(OSError(28, "No space left on device")))


# ------------------------------------------------------------- temporary names


def left_by(path: Path, host: str, pid: int, seconds: float = 0) -> Path:
    left = path.with_name(f".{path.name}.{host}.{pid}.0123abcd.tmp")
    left.write_bytes(b"half")
    then = time.time() - seconds
    os.utime(left, (then, then))
    return left


def test_leftovers_of_the_dead_are_swept_and_those_of_others_are_not(tmp_path):
    path, here = tmp_path / "a [1].pth", socket.gethostname().split(".")[0]
    dead = left_by(path, here, NOBODY)
    old = left_by(path, "elsewhere", NOBODY, 2 * LEFT_BEHIND)
    kept = [
        left_by(path, here, os.getpid()),
        left_by(path, "elsewhere", NOBODY + 1),
        left_by(tmp_path / "b.pth", here, NOBODY),
    ]
    folder = path.with_name(f".{path.name}.{here}.{NOBODY}.89abcdef.tmp")
    folder.mkdir()
    (folder / "half").write_bytes(b"half")
    sweep(path)
    assert not dead.exists() and not old.exists() and not folder.exists()
    assert all(x.exists() for x in kept)


def test_writers_of_all_hosts_have_names_of_their_own(tmp_path, monkeypatch):
    names = set()
    for host in ("node1.site", "node2.site"):  # with one process number
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        for _ in range(3):
            with scratch_folder(tmp_path / "made") as folder:
                names.add(folder.name)
    assert len(names) == 6 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["mono", "pieces"])
def test_formatted_audio_leaves_no_half_file(kind, tmp_path):
    """A disk that is full in the middle of a recording."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a disk needs root")
    try:
        wave = builders.speech_like(12, 1)
        wave = wave if kind == "pieces" else wave[:, None].repeat(2, 1)
        soundfile.write(tmp_path / "a.wav", wave, builders.SAMPLE_RATE)
        (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
        (tmp_path / "utt2num_samples").write_text(f"a {len(wave)}\n")
        words = ["--data_dir", str(tmp_path), "--out_dir", str(folder / "out")]
        if kind == "pieces":
            words += ["--min_duration", "0.1", "--max_duration", "9"]
        with pytest.raises(SystemExit) as end:
            mtkd_format_audio.main(words)
        assert end.value.code == 6
        assert not [x for x in folder.rglob(".*") if x.is_file()]
    finally:
        subprocess.run(["umount", str(folder)], check=True)
