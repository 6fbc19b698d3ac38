"""What `mtkd_asr_stream` keeps when a file is bad, a run is stopped, or Ctrl-C ends the
audio; and files on standard input."""

import io
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
import wave
from types import SimpleNamespace

import builders
import numpy as np
import pytest
import soundfile
import torch

from espnet_mtkd.bin.mtkd_asr_stream import main
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.streaming import Speech2TextStreamingTransducer
from espnet_mtkd.streaming.sources import catch_ctrl_c, check_file, read_file
from espnet_mtkd.streaming.texts import TextFile

RATE = builders.SAMPLE_RATE


@pytest.fixture
def corpus(files, tmp_path):
    """A wav.scp of five files, and their texts."""
    decoder = Speech2TextStreamingTransducer(*files)
    texts, lines = {}, []
    for i in range(5):
        path = tmp_path / f"utt{i}.flac"
        samples = builders.speech_like(0.6 + 0.3 * i, i)
        soundfile.write(path, samples, RATE, subtype="PCM_16")
        stream = decoder.open_stream()
        segments = stream.accept(soundfile.read(path, dtype="float32")[0])[:-1]
        segments += stream.finish()
        texts[path.stem] = " ".join(s.text.strip() for s in segments).strip()
        lines.append(f"{path.stem} {path}\n")
    (tmp_path / "wav.scp").write_text("".join(lines))
    return tmp_path / "wav.scp", texts


def lines_of(texts: dict[str, str], leave_out=()) -> list[str]:
    return [f"{u} {t}".rstrip() for u, t in texts.items() if u not in leave_out]


# ------------------------------------------------------------- bad files


def damage_rate(path):
    soundfile.write(path, np.zeros(8000), 8000, format="FLAC")


def damage_middle(path):
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 2, len(data) // 2 + 200):
        data[i] = 0
    path.write_bytes(data)


def damage_sample(path):
    samples = builders.speech_like(1, 0)
    samples[9000] = np.nan
    soundfile.write(path, samples, RATE, format="WAV", subtype="FLOAT")


def damage_cut(path):
    soundfile.write(path, builders.speech_like(1, 0), RATE, format="WAV")
    path.write_bytes(path.read_bytes()[:20000])


DAMAGES = {
    "rate": (damage_rate, "expected 16000 Hz and one channel, found 8000 Hz"),
    "removed": (os.unlink, "unreadable"),
    "middle": (damage_middle, "can be read|unreadable"),
    "sample": (damage_sample, "sample 9000 of the stream is nan"),
    "cut": (damage_cut, "cut: its header says 32000 bytes of samples"),
}


@pytest.mark.parametrize("num_streams", ["1", "3"])
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_bad_file_is_named_and_the_others_are_decoded(
    flags, corpus, capsys, kind, num_streams
):
    scp, texts = corpus
    damage, message = DAMAGES[kind]
    damage(scp.with_name("utt2.flac"))
    out = scp.with_name("text")
    with pytest.raises(SystemExit) as end:
        main(
            [*flags, "--wav_scp", str(scp), "--out", str(out)]
            + ["--num_streams", num_streams]
        )
    assert end.value.code == 4
    assert out.read_text().splitlines() == lines_of(texts, ["utt2"])
    *_, head, named, _ = capsys.readouterr().err.splitlines()
    assert head.startswith("error: 1 of 5 utterances could not be decoded")
    assert "utt2: " in named and re.search(message, named)


def test_an_utterance_with_nan_in_the_model_is_named(flags, files, corpus, capsys):
    scp, texts = corpus
    weights = torch.load(files[1])
    weights["joint_network.lin_out.bias"][4] = float("nan")
    bad = scp.with_name("bad.pth")
    torch.save(weights, bad)
    with pytest.raises(SystemExit) as end:
        main([*flags[:3], str(bad), "--wav_scp", str(scp), "--num_streams", "2"])
    assert end.value.code == 4
    err = capsys.readouterr().err
    assert "error: 5 of 5 utterances" in err
    for utt in texts:
        assert f"{utt}: at 0.00 s the logits" in err


# ------------------------------------------------------------- stopped runs


@pytest.mark.remedy(
    "free some and run the command with --resume",
)
def test_lines_are_there_before_the_end_and_a_stopped_run_goes_on(
    flags, corpus, capsys
):
    scp, texts = corpus
    out = scp.with_name("text")
    command = [sys.executable, "-m", "espnet_mtkd.bin.mtkd_asr_stream", *flags]
    command += ["--wav_scp", str(scp), "--out", str(out), "--real_time"]
    process = subprocess.Popen(command, cwd=builders.ROOT, stderr=subprocess.DEVNULL)
    try:
        deadline = time.time() + 300
        while process.poll() is None and time.time() < deadline:
            if out.exists() and len(out.read_text().splitlines()) >= 2:
                break
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    kept = out.read_text()
    num_kept = len(kept.splitlines())
    assert 2 <= num_kept < 5 and kept.endswith("\n")
    assert kept.splitlines() == lines_of(texts)[:num_kept]
    # The line that a power cut left unfinished is no result.
    out.write_text(kept + "utt")
    main([*flags, "--wav_scp", str(scp), "--out", str(out), "--resume"])
    captured = capsys.readouterr()
    assert f"--resume keeps {num_kept} of its {num_kept + 1} lines" in captured.err
    shown = {line.split()[0] for line in captured.out.splitlines()}
    assert shown == set(list(texts)[num_kept:])
    assert out.read_text().splitlines() == lines_of(texts)


def test_without_resume_an_earlier_runs_lines_are_replaced_and_it_is_said(
    flags, corpus, capsys
):
    scp, texts = corpus
    out = scp.with_name("text")
    out.write_text("utt0 OF ANOTHER MODEL\n")
    main([*flags, "--wav_scp", str(scp), "--out", str(out)])
    assert "the 1 lines of an earlier run are replaced" in capsys.readouterr().err
    assert out.read_text().splitlines() == lines_of(texts)


def test_ctrl_c_on_files_keeps_what_was_decoded(flags, corpus):
    scp, texts = corpus
    out = scp.with_name("text")
    command = [sys.executable, "-m", "espnet_mtkd.bin.mtkd_asr_stream", *flags]
    command += ["--wav_scp", str(scp), "--out", str(out), "--real_time"]
    process = subprocess.Popen(
        command, cwd=builders.ROOT, stderr=subprocess.PIPE, text=True
    )
    deadline = time.time() + 300
    while process.poll() is None and time.time() < deadline:
        if out.exists() and out.read_text():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err and "--resume goes on from them" in err
    assert "RTF: " in err
    lines = out.read_text().splitlines()
    assert 1 <= len(lines) < 5 and lines == lines_of(texts)[: len(lines)]


def test_resume_needs_a_file(flags, capsys):
    with pytest.raises(SystemExit) as end:
        main([*flags, "x.wav", "--resume"])
    assert end.value.code == 2 and "--out" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_before_decoding(flags, corpus, capsys):
    scp, _ = corpus
    with pytest.raises(SystemExit) as end:
        main([*flags, "--wav_scp", str(scp), "--out", str(scp.parent)])
    captured = capsys.readouterr()
    assert end.value.code == 2 and "cannot be written" in captured.err
    assert not captured.out
    with pytest.raises(ConfigError):
        TextFile(scp / "text", False)


# ------------------------------------------------------------- standard input


def give_stdin(monkeypatch, data: bytes):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))


def heard_from(monkeypatch, data: bytes, chunk_size=700) -> np.ndarray:
    from espnet_mtkd.streaming.stdin import read_stdin

    give_stdin(monkeypatch, data)
    with catch_ctrl_c() as stop:
        chunks = list(read_stdin(RATE, chunk_size, stop))
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int16)


PCM = np.round(builders.speech_like(0.5, 3) * 32767).astype("<i2")


def wav_of(pcm: np.ndarray, rate=RATE, channels=1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm.tobytes())
    return file.getvalue()


def with_sizes(data: bytes, riff: int, samples: int) -> bytes:
    """As a program writes that does not know them."""
    return (
        data[:4]
        + struct.pack("<I", riff)
        + data[8:40]
        + struct.pack("<I", samples)
        + data[44:]
    )


LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"x" * 14
WAV = wav_of(PCM)
HEADERS = {
    "whole": WAV,
    "no sizes": with_sizes(WAV, 0, 0),
    "largest sizes": with_sizes(WAV, 0xFFFFFFFF, 0xFFFFFFFF),
    "another chunk before": WAV[:36] + LIST + WAV[36:],
    "another chunk behind": WAV + LIST,
    "none": PCM.tobytes(),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_the_samples_of_a_wav_file_are_heard_without_its_header(monkeypatch, kind):
    np.testing.assert_array_equal(heard_from(monkeypatch, HEADERS[kind]), PCM)


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, PCM, RATE, format=kind, **options)
    return file.getvalue()


REFUSED = {
    "flac": (encoded("FLAC"), r"flac: .*sox -t flac - -t raw -r 16000"),
    "ogg": (encoded("OGG"), r"Ogg: .*ffmpeg -i - "),
    "aiff": (encoded("AIFF"), r"aiff: .*sox -t aiff"),
    "caf": (encoded("CAF"), r"CAF: .*ffmpeg"),
    "au": (encoded("AU"), r"au: .*sox -t au"),
    "float wav": (encoded("WAV", subtype="FLOAT"), r"found another.*sox -t wav"),
    "24 bits": (encoded("WAV", subtype="PCM_24"), r"sox -t wav"),
    "rate": (wav_of(PCM, rate=8000), r"16000 Hz, found 16 bits, 1 ch.*, 8000 Hz"),
    "channels": (wav_of(PCM, channels=2), r"found 16 bits, 2 channel"),
    "cut header": (WAV[:30], r"found another"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_of_another_kind_is_not_heard_as_samples(monkeypatch, kind):
    data, message = REFUSED[kind]
    with pytest.raises(DataError, match=message):
        heard_from(monkeypatch, data)


@pytest.mark.parametrize("kind", ["flac", "aiff", "au", "24 bits", "rate"])
@pytest.mark.remedy(
    "expected raw 16-bit samples or a WAV file",
    "give the file by its name, or convert it",
    "sox -t {} - -t raw",
)
def test_the_named_conversion_gives_the_samples(monkeypatch, kind):
    data, _ = REFUSED[kind]
    with pytest.raises(DataError) as error:
        heard_from(monkeypatch, data)
    command = str(error.value).split("`")[1].removesuffix(" | ... -")
    done = subprocess.run(command, shell=True, input=data, capture_output=True)
    assert done.returncode == 0, done.stderr
    pcm = np.frombuffer(done.stdout, "<i2")
    if kind == "rate":  # twice as many samples
        assert abs(len(pcm) - 2 * len(PCM)) < 10
    else:  # sox dithers
        np.testing.assert_allclose(pcm, PCM, atol=1)


def start_on_pipe(flags, out) -> subprocess.Popen:
    command = [sys.executable, "-m", "espnet_mtkd.bin.mtkd_asr_stream", *flags, "-"]
    return subprocess.Popen(
        [*command, "--out", str(out), "--chunk_ms", "70"],
        cwd=builders.ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )


def wait_for_partial(process) -> None:
    """Until it has shown text: it hears."""
    seen = b""
    while b" s  " not in seen:
        assert select.select([process.stderr], [], [], 300)[0]
        more = os.read(process.stderr.fileno(), 1 << 16)
        assert more, seen.decode()
        seen += more


@pytest.mark.parametrize("goes_on", [False, True])
def test_ctrl_c_keeps_the_transcript_of_a_pipe(files, flags, tmp_path, goes_on):
    """Whether or not the recorder goes on; the last, odd byte is no sample."""
    pcm = np.round(builders.speech_like(2, 3) * 32767).astype("<i2")
    process = start_on_pipe(flags, tmp_path / "text")
    process.stdin.write(pcm.tobytes() + b"\0")
    wait_for_partial(process)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    if not goes_on:
        process.stdin.close()
        process.stdin = None
    out, err = process.stdout.read().decode(), process.stderr.read().decode()
    assert process.wait(60) == 0, err
    assert (
        "Traceback" not in err and "RTF: " in err and "first token latency (1)" in err
    )
    stream = Speech2TextStreamingTransducer(*files).open_stream()
    segments = stream.accept(pcm)[:-1] + stream.finish()
    expected = " ".join(s.text.strip() for s in segments).strip()
    assert (tmp_path / "text").read_text() == f"stdin {expected}\n"
    assert " ".join(line.split(" ", 2)[2] for line in out.splitlines()) == expected


def test_no_audio_at_all_is_said(flags, monkeypatch, capsys):
    give_stdin(monkeypatch, b"")
    main([*flags, "-"])
    out, err = capsys.readouterr()
    assert not out and "stdin: no audio came" in err
    assert "first token latency: none was found" in err and "RTF" not in err


# ------------------------------------------------------------- blocks of a file


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_a_file_in_blocks_is_the_file(tmp_path, kind):
    path = tmp_path / f"x.{kind.lower()}"
    soundfile.write(path, builders.speech_like(1, 1), RATE, format=kind)
    check_file(path, RATE)
    blocks = np.concatenate(list(read_file(path, 700)))
    whole = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(blocks, whole, atol=2e-3)
