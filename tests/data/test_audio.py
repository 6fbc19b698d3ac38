"""Every fault of an audio file is named by utterance before training."""

import logging
import os

import builders
import numpy as np
import pytest
import soundfile

from espnet_mtkd.bin.mtkd_doctor import main
from espnet_mtkd.data.audio import check_data_dir
from espnet_mtkd.data.kaldi import read_wav_scp
from espnet_mtkd.errors import DataError

RATE = builders.SAMPLE_RATE


@pytest.fixture
def data_dir(tmp_path):
    """Function: utterance -> file, all written to a wav.scp; returns the directory."""

    def make(entries) -> object:
        lines = [f"{utt} {audio}\n" for utt, audio in entries.items()]
        (tmp_path / "wav.scp").write_text("".join(lines))
        return tmp_path

    return make


@pytest.fixture
def good(tmp_path):
    """Function: n -> n utterances with audio of 400, 401, ... samples."""

    def make(num):
        entries = {}
        for i in range(num):
            path = tmp_path / f"good{i}.wav"
            soundfile.write(path, builders.speech_like(1, i)[: 400 + i], RATE)
            entries[f"good{i}"] = path
        return entries

    return make


def write_bad(folder, kind):
    """One audio file of a kind that no teacher can hear; and what is to be said."""
    path = folder / f"{kind}.wav"
    wave = builders.speech_like(0.5, 1)
    if kind == "rate":
        soundfile.write(path, wave, 8000)
        return path, "expected 16000 Hz, found 8000 Hz"
    if kind == "empty":
        soundfile.write(path, wave[:0], RATE)
        return path, "empty"
    if kind == "unreadable":
        path.write_bytes(b"this is no audio")
        return path, "unreadable"
    if kind == "cut":
        flac = path.with_suffix(".flac")
        soundfile.write(flac, np.tile(wave, 20), RATE)
        flac.write_bytes(flac.read_bytes()[:30])
        return flac, "unreadable"
    if kind == "missing":
        return path, "unreadable"
    if kind in ("nan", "inf"):
        wave = wave.copy()
        wave[[7, 8]] = np.nan if kind == "nan" else np.inf
        soundfile.write(path, wave, RATE, subtype="FLOAT")
        return path, "2 samples are NaN or infinite"
    if kind == "short":
        soundfile.write(path, wave[:399], RATE)
        return path, "expected at least 400 samples, found 399"
    soundfile.write(path, np.stack([wave, wave], 1), RATE)
    return path, "expected one channel, found 2"


KINDS = "rate empty unreadable cut missing nan inf short stereo".split()


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_file_is_named_with_utterance_path_and_fault(
    kind, tmp_path, data_dir, good
):
    path, fault = write_bad(tmp_path, kind)
    folder = data_dir({**good(3), f"the_{kind}_one": path})
    with pytest.raises(DataError) as error:
        check_data_dir(folder, tmp_path / "stats/speech_shape")
    message = str(error.value)
    assert f"the_{kind}_one ({path}): {fault}" in message
    assert "1 of 4 utterances" in message and "good0" not in message
    assert error.value.exit_code == 4
    assert not (tmp_path / "stats/speech_shape").exists()


def test_good_audio_gives_a_shape_file_in_the_order_of_wav_scp(
    tmp_path, data_dir, good
):
    folder = data_dir(dict(reversed(good(5).items())))
    for nj, name in ((1, "one"), (2, "two")):
        check_data_dir(folder, tmp_path / name, nj=nj)
        assert (tmp_path / name).read_text() == "".join(
            f"good{i} {400 + i}\n" for i in reversed(range(5))
        )


def test_up_to_a_thousandth_is_left_out_and_named(tmp_path, data_dir, good, caplog):
    # Many utterances may share a file: what counts is the utterance.
    (path,) = good(1).values()
    bad, fault = write_bad(tmp_path, "short")
    entries = {f"utt{i:04d}": path for i in range(999)}
    folder = data_dir({**entries, "bad_one": bad})
    with caplog.at_level(logging.WARNING):
        check_data_dir(folder, tmp_path / "speech_shape")
    assert f"bad_one ({bad}): {fault}" in caplog.text
    assert (tmp_path / "speech_shape").read_text() == "".join(
        f"{utt} 400\n" for utt in entries
    )
    # One more is beyond it.
    folder = data_dir({**entries, "bad_one": bad, "bad_two": bad})
    with pytest.raises(DataError, match="(?s)2 of 1001.*bad_one.*bad_two.*0.1%"):
        check_data_dir(folder, tmp_path / "speech_shape")


def test_at_most_ten_are_named_and_the_rest_is_counted(tmp_path, data_dir):
    folder = data_dir({f"utt{i:02d}": tmp_path / "missing.wav" for i in range(13)})
    with pytest.raises(DataError) as error:
        check_data_dir(folder, tmp_path / "speech_shape")
    message = str(error.value)
    assert "utt09" in message and "utt10" not in message
    assert "... and 3 more" in message


def test_the_second_check_reads_no_audio_and_a_changed_wav_scp_does(
    tmp_path, data_dir, good
):
    entries = good(3)
    folder, shape = data_dir(entries), tmp_path / "speech_shape"
    check_data_dir(folder, shape)
    before = shape.stat().st_mtime_ns, shape.read_text()
    # Whoever read it again would see that it is no audio any more.
    file, stat = entries["good2"], entries["good2"].stat()
    file.write_bytes(b"?" * stat.st_size)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    check_data_dir(folder, shape)
    assert (shape.stat().st_mtime_ns, shape.read_text()) == before
    os.utime(file)  # a file that was changed under its name is looked at again
    with pytest.raises(DataError, match="good2"):
        check_data_dir(folder, shape)
    data_dir({k: v for k, v in entries.items() if k != "good1"})
    with pytest.raises(DataError, match="good2"):
        check_data_dir(folder, shape)


@pytest.mark.parametrize(
    "text, message",
    [
        ("utt1 flac -c -d -s a.flac |\n", "wav.scp:1: .*stage 3"),
        ("utt1 a.wav\nutt2\n", "wav.scp:2: "),
        ("utt1 a.wav\nutt1 b.wav\n", "wav.scp:2: utterance utt1 stands here twice"),
        ("", "empty"),
        (None, "no such file"),
    ],
)
def test_a_malformed_wav_scp_names_file_and_line(tmp_path, text, message):
    if text is not None:
        (tmp_path / "wav.scp").write_text(text)
    with pytest.raises(DataError, match=message):
        read_wav_scp(tmp_path / "wav.scp")


def test_the_doctor_ends_with_code_4(tmp_path, data_dir, good, capsys):
    path, fault = write_bad(tmp_path, "nan")
    folder = data_dir({**good(2), "bad_one": path})
    with pytest.raises(SystemExit) as end:
        main(["--data_dir", str(folder), "--out_dir", str(tmp_path / "stats")])
    assert end.value.code == 4
    assert f"bad_one ({path}): {fault}" in capsys.readouterr().err


def test_the_doctor_writes_the_shapes_where_the_recipe_looks(tmp_path, data_dir, good):
    folder = data_dir(good(2))
    main(["--data_dir", str(folder), "--out_dir", str(tmp_path / "stats")])
    shape = tmp_path / "stats" / folder.name / "speech_shape"
    assert shape.read_text() == "good0 400\ngood1 401\n"


def test_the_doctor_names_audio_that_is_too_long_for_a_teacher(
    tmp_path, data_dir, good, two_teachers, capsys
):
    soundfile.write(tmp_path / "long.flac", np.zeros(480001), RATE)
    folder = data_dir({**good(2), "long_one": tmp_path / "long.flac"})
    command = ["--data_dir", str(folder), "--out_dir", str(tmp_path / "stats")]
    with pytest.raises(SystemExit) as end:
        main([*command, "--teachers", str(two_teachers)])
    assert end.value.code == 4
    assert "long_one" in capsys.readouterr().err
    main(command)  # without Whisper nobody minds
