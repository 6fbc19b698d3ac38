"""Audio that nobody has looked at, when a training is begun by hand."""

import os
import subprocess
import sys
from pathlib import Path

import builders
import numpy as np
import pytest
import soundfile

from espnet_mtkd.bin import mtkd_doctor
from espnet_mtkd.data.audio import find_fault
from espnet_mtkd.data.kaldi import read_lines
from espnet_mtkd.data.listed import (
    CHECKED,
    KEPT,
    MAX_SECONDS,
    check_listed,
    note_digest,
    read_digests,
    read_samples,
)
from espnet_mtkd.errors import DataError

RATE = builders.SAMPLE_RATE


def cut(path: Path, share: float = 0.5) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def write(folder: Path, kind: str) -> Path:
    """A file of one second's speech to which something is the matter."""
    wave = builders.speech_like(1.0, 7)
    ending = kind.rpartition(" ")[2] if kind.startswith("cut") else "wav"
    path = folder / f"bad.{ending}"
    rate = 8000 if kind == "rate" else RATE
    subtype = None
    if kind == "empty":
        wave = wave[:0]
    elif kind == "stereo":
        wave = np.stack([wave, wave], 1)
    elif kind == "nan":
        wave, subtype = wave.copy(), "FLOAT"
        wave[77] = np.nan
    elif kind == "0.01 s":
        wave = wave[:160]
    elif kind == "other length":
        wave = wave[:-1]
    if kind == "nothing":
        return path
    if kind == "pipe":
        os.mkfifo(path)
        return path
    if kind == "folder":
        path.mkdir()
        return path
    soundfile.write(path, wave, rate, subtype)
    if kind == "text":
        path.write_text("this is no audio")
    if kind == "no bytes":
        path.write_bytes(b"")
    if kind.startswith("cut"):
        cut(path)
    return path


BAD = {
    "empty": "empty",
    "no bytes": "unreadable",
    "cut flac": "",
    "cut wav": "cut",
    "cut ogg": "",
    "rate": "found 8000 Hz",
    "stereo": "found 2",
    "nan": "1 samples are NaN",
    "0.01 s": "found 160",
    "text": "unreadable",
    "nothing": "unreadable",
    "pipe": "a pipe or a device",
    "folder": "a folder",
    "other length": "15999 samples, but 16000 in",
}


def listed(folder: Path, bad: Path, num_good: int = 2) -> tuple[Path, dict]:
    """A wav.scp of good utterances and that one, and what their lengths should be."""
    entries = {}
    for i in range(num_good):
        entries[f"good{i}"] = folder / f"good{i}.flac"
        soundfile.write(entries[f"good{i}"], builders.speech_like(1.0, i), RATE)
    entries["the_one"] = bad
    scp = folder / "wav.scp"
    scp.write_text("".join(f"{utt} {path}\n" for utt, path in entries.items()))
    return scp, dict.fromkeys(entries, RATE)


@pytest.mark.parametrize("kind", BAD)
def test_each_kind_of_bad_audio_is_named_and_the_good_is_not(kind, tmp_path):
    bad = write(tmp_path, kind)
    scp, lengths = listed(tmp_path, bad)
    with pytest.raises(DataError) as error:
        check_listed(scp, lengths, Path("shapes"), tmp_path / "exp")
    message = str(error.value)
    assert f"the_one ({bad}): " in message and BAD[kind] in message
    assert "1 of 3 utterances" in message and "good" not in message
    assert not (tmp_path / CHECKED).exists()


def test_an_utterance_of_two_hours_and_one_of_ten_minutes(tmp_path):
    """By its length alone: none is read."""
    scp, lengths = listed(tmp_path, tmp_path / "long.wav")
    lengths["the_one"] = 2 * 3600 * RATE
    with pytest.raises(DataError, match=r"the_one \(7200 s\): cut them by segments"):
        check_listed(scp, lengths, Path("shapes"), tmp_path / "exp")
    silence = np.zeros(MAX_SECONDS * RATE, np.int16)
    soundfile.write(tmp_path / "long.wav", silence, RATE)
    lengths["the_one"] = len(silence)
    check_listed(scp, lengths, Path("shapes"), tmp_path / "exp")


@pytest.mark.remedy("no line for {} utterances of {}: {}: run mtkd_doctor")
def test_utterances_without_a_line_are_named(tmp_path):
    scp, lengths = listed(tmp_path, write(tmp_path, "good"))
    with pytest.raises(DataError, match="no line for 1 utterances of shapes: other"):
        check_listed(scp, {**lengths, "other": RATE}, Path("shapes"), tmp_path)
    words = ["--data_dir", str(tmp_path), "--out_dir", str(tmp_path / "stats")]
    mtkd_doctor.main(words)
    shapes = tmp_path / "stats" / tmp_path.name / "speech_shape"
    check_listed(scp, read_samples(shapes), shapes, tmp_path / "exp")


def spoil(path: Path, unseen: bool) -> None:
    """Make a file one that nobody could read; as if it had not been touched, or not."""
    status = path.stat()
    path.write_bytes(b"?" * status.st_size)
    if unseen:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("before", ["a training", "the doctor"])
def test_what_was_checked_is_not_read_again_until_it_changes(before, tmp_path):
    one = write(tmp_path, "good")
    scp, lengths = listed(tmp_path, one)

    def check(folder="exp", lengths=lengths):
        check_listed(scp, lengths, Path("shapes"), tmp_path / folder)

    if before == "a training":
        check()
    else:
        words = ["--data_dir", str(tmp_path), "--out_dir", str(tmp_path / "stats")]
        mtkd_doctor.main(words)
    spoil(one, unseen=True)
    check("another")
    check(lengths=dict(reversed(lengths.items())))  # the same list
    # A list of which the bad file is no part is another list.
    check(lengths={utt: num for utt, num in lengths.items() if utt != "the_one"})
    with pytest.raises(DataError, match="the_one"):
        check(lengths={**lengths, "good0": RATE + 1})
    spoil(one, unseen=False)
    with pytest.raises(DataError, match="the_one"):
        check()


def test_data_that_cannot_be_written_to(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    one = write(folder, "good")
    scp, lengths = listed(folder, one)
    (folder / CHECKED).mkdir()  # nor can that be replaced by a file
    check_listed(scp, lengths, Path("shapes"), tmp_path / "exp")
    spoil(one, unseen=True)
    check_listed(scp, lengths, Path("shapes"), tmp_path / "exp")
    with pytest.raises(DataError, match="the_one"):
        check_listed(scp, lengths, Path("shapes"), tmp_path / "another")


def test_the_newest_lists_are_remembered(tmp_path):
    for i in range(KEPT + 5):
        note_digest(f"digest{i}", [tmp_path / CHECKED])
    note_digest("digest7", [tmp_path / CHECKED])
    found = read_digests(tmp_path / CHECKED)
    assert found == [*(f"digest{i}" for i in range(5, KEPT + 5) if i != 7), "digest7"]


@pytest.mark.remedy(
    "mtkd_doctor writes one without them",
    "cut them by segments",
    "utterances cannot be used",
)
@pytest.mark.parametrize("what", ["repaired", "taken out", "written by the doctor"])
def test_what_to_do_about_bad_audio(what, tmp_path):
    bad = write(tmp_path, "nan")
    scp, lengths = listed(tmp_path, bad)
    shapes = tmp_path / "shapes"
    if what == "written by the doctor":  # it leaves out what may be an accident
        good = scp.read_text().splitlines()[0].split()[1]
        lines = [f"more{i:04d} {good}\n" for i in range(1000)]
        scp.write_text(scp.read_text() + "".join(lines))
        lengths |= {line.split()[0]: RATE for line in lines}
    shapes.write_text("".join(f"{utt} {num}\n" for utt, num in lengths.items()))
    with pytest.raises(DataError, match="the_one"):
        check_listed(scp, read_samples(shapes), shapes, tmp_path / "exp")
    if what == "repaired":
        soundfile.write(bad, builders.speech_like(1.0, 7), RATE)
    elif what == "taken out":
        del lengths["the_one"]
        shapes.write_text("".join(f"{utt} {num}\n" for utt, num in lengths.items()))
    else:
        words = ["--data_dir", str(tmp_path), "--out_dir", str(tmp_path / "stats")]
        mtkd_doctor.main(words)
        shapes = tmp_path / "stats" / tmp_path.name / "speech_shape"
    check_listed(scp, read_samples(shapes), shapes, tmp_path / "exp")


TWO = """
import sys
from pathlib import Path
from espnet_mtkd.data.listed import check_listed, read_samples
folder = Path(sys.argv[1])
shapes = folder / "shapes"
check_listed(folder / "wav.scp", read_samples(shapes), shapes, folder / "exp")
"""


def test_two_processes_look_once(tmp_path):
    scp, lengths = listed(tmp_path, write(tmp_path, "good"))
    lines = "".join(f"{utt} {num}\n" for utt, num in lengths.items())
    (tmp_path / "shapes").write_text(lines)
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path)],
            stderr=subprocess.PIPE,
            text=True,
            cwd=builders.ROOT,
        )
        for _ in range(2)
    ]
    said = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert sum("which nobody has checked" in text for text in said) == 1


@pytest.mark.parametrize("shape", ["", "x", "12.5", "-3", "²", "9" * 5000, "1 2"])
def test_lengths_that_are_none(shape, tmp_path):
    path = tmp_path / "speech_shape"
    path.write_text(f"a 16000\nb {shape}\n")
    with pytest.raises(DataError, match=f"{path}:2: expected '<utterance> <samples>'"):
        read_samples(path)


def test_lengths_as_espnet_writes_them(tmp_path):
    path = tmp_path / "speech_shape"
    path.write_text("a 16000\nb 32000,2\n")
    assert read_samples(path) == {"a": 16000, "b": 32000}
    path.write_text("")
    with pytest.raises(DataError, match="empty"):
        read_samples(path)


@pytest.mark.parametrize("byte", ["\r", "\0"])
def test_bytes_that_espnet_reads_otherwise(byte, tmp_path):
    path = tmp_path / "text"
    path.write_bytes(f"a one\nb tw{byte}o\n".encode())
    with pytest.raises(DataError, match=f"{path}:2: has a CR.* or a zero byte"):
        read_lines(path, "a text")


def test_a_device_is_not_waited_for():
    assert "a pipe or a device" in find_fault("/dev/zero")[1]
