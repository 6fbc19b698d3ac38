"""Audio in chunks: from files, standard input, a microphone."""

import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from espnet_mtkd.data.kaldi import read_wav_scp
from espnet_mtkd.errors import ConfigError, DataError


def open_sources(
    audio: list[str],
    wav_scp: Path | None,
    microphone: bool,
    sample_rate: int,
    chunk_size: int,
) -> dict[str, Iterator[np.ndarray]]:
    """Utterance id -> chunks (samples,); files are checked before any is decoded.

    Args:
        audio: files, named by their stems; or only '-', standard input.
        wav_scp: Kaldi's list of files, in place of `audio`.
        microphone: the default input device, in place of both.
        sample_rate: the model's, in Hz.
        chunk_size: samples.

    Raises:
        ConfigError: two files of one name.
        DataError: a file that the model cannot hear, or no good `wav_scp`.
    """
    if microphone:
        return {"microphone": read_microphone(sample_rate, chunk_size)}
    if audio == ["-"]:
        return {"stdin": read_stdin(chunk_size)}
    if wav_scp:
        paths = {utt: Path(path) for utt, path in read_wav_scp(wav_scp).items()}
    else:
        paths = {Path(path).stem: Path(path) for path in audio}
        if len(paths) < len(audio):
            raise ConfigError("two audio files have one name: give them in a --wav_scp")
    for path in paths.values():
        check_file(path, sample_rate)
    return {utt: read_file(path, chunk_size) for utt, path in paths.items()}


def check_file(path: Path, sample_rate: int) -> None:
    """Refuse a file that the model cannot hear.

    Raises:
        DataError: unreadable, of another sample rate, or not of one channel.
    """
    try:
        info = soundfile.info(str(path))
    except (soundfile.SoundFileError, OSError) as e:
        raise DataError(f"{path}: unreadable ({e})") from e
    if info.samplerate != sample_rate:
        raise DataError(
            f"{path}: expected {sample_rate} Hz, found {info.samplerate} Hz: convert "
            f"it, `sox {path.name} -r {sample_rate} converted.wav`"
        )
    if info.channels != 1:
        raise DataError(f"{path}: expected one channel, found {info.channels}")


def read_file(path: Path, chunk_size: int) -> Iterator[np.ndarray]:
    """Chunks (samples,) of a file; the last may be shorter."""
    yield from soundfile.blocks(str(path), blocksize=chunk_size, dtype="float32")


def read_stdin(chunk_size: int) -> Iterator[np.ndarray]:
    """Chunks of 16-bit little-endian PCM, one channel, from standard input.

    Raises:
        DataError: the input ends within a sample.
    """
    while data := sys.stdin.buffer.read(2 * chunk_size):
        if len(data) % 2:
            raise DataError(
                "standard input: expected 16-bit samples, found an odd number of bytes"
            )
        yield np.frombuffer(data, "<i2")


def read_microphone(sample_rate: int, chunk_size: int) -> Iterator[np.ndarray]:
    """Chunks from the default input device, until Ctrl-C.

    Raises:
        ConfigError: sounddevice or PortAudio is not installed, or there is no device.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as e:
        raise ConfigError(
            f"--microphone: {e}: `pip install sounddevice` and, on Debian, `apt "
            "install libportaudio2`; or pipe the audio: `arecord -f S16_LE -r "
            f"{sample_rate} -t raw | ... -`"
        ) from e
    stop = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        with sounddevice.InputStream(
            samplerate=sample_rate, channels=1, dtype="float32", blocksize=chunk_size
        ) as device:
            while not stop.is_set():
                yield device.read(chunk_size)[0][:, 0]
    except sounddevice.PortAudioError as e:
        raise ConfigError(
            f"--microphone: no device that gives {sample_rate} Hz, one channel ({e}): "
            "`python -m sounddevice` lists them"
        ) from e
    finally:
        signal.signal(signal.SIGINT, before)
