"""Audio in chunks: from files, standard input, a microphone."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from espnet_mtkd.data.audio import convert_command
from espnet_mtkd.data.containers import find_cut
from espnet_mtkd.data.kaldi import read_wav_scp
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.streaming.stdin import read_stdin


@contextlib.contextmanager
def catch_ctrl_c() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second is Python's again.

    Where the process ignores Ctrl-C, or this is not its main thread, it is never set.
    """
    stop = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before == signal.SIG_IGN:
        yield stop
        return

    def set_stop(*_):
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, set_stop)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def open_live(
    microphone: bool, sample_rate: int, chunk_size: int, stop: threading.Event
) -> dict[str, Iterator[np.ndarray]]:
    """Utterance id -> chunks (samples,) of the default input device, or of standard
    input, until they end or `stop` is set."""
    if microphone:
        return {"microphone": read_microphone(sample_rate, chunk_size, stop)}
    return {"stdin": read_stdin(sample_rate, chunk_size, stop)}


def open_files(
    paths: dict[str, Path], sample_rate: int, chunk_size: int
) -> tuple[dict[str, Iterator[np.ndarray]], dict[str, str]]:
    """Look at all files before any is decoded.

    Args:
        paths: utterance id -> file.
        sample_rate: the model's, in Hz.
        chunk_size: samples.

    Returns:
        Utterance id -> chunks (samples,), and utterance id -> what is wrong with the
        file.
    """
    sources, faults = {}, {}
    for utt, path in paths.items():
        try:
            check_file(path, sample_rate)
            sources[utt] = read_file(path, chunk_size)
        except DataError as e:
            faults[utt] = str(e)
    return sources, faults


def list_files(audio: list[str], wav_scp: Path | None) -> dict[str, Path]:
    """Utterance id -> file.

    Args:
        audio: files, named by their stems, with '_' for spaces.
        wav_scp: Kaldi's list of files, in place of `audio`.

    Raises:
        ConfigError: two files of one name.
        DataError: no good `wav_scp`.
    """
    if wav_scp:
        return {utt: Path(path) for utt, path in read_wav_scp(wav_scp).items()}
    # An id with a space would end there for whoever reads --out.
    paths = {"_".join(Path(path).stem.split()) or "_": Path(path) for path in audio}
    if len(paths) < len(audio):
        raise ConfigError("two audio files have one name: give them in a --wav_scp")
    return paths


def check_file(path: Path, sample_rate: int) -> None:
    """Refuse a file that the model cannot hear.

    Raises:
        DataError: unreadable, cut, of another sample rate, or not of one channel.
    """
    try:
        info = soundfile.info(str(path))
        cut = find_cut(path)
    except (soundfile.SoundFileError, OSError) as e:
        raise DataError(f"{path}: unreadable ({e})") from e
    if cut is not None:
        raise DataError(f"{path}: {cut}")
    if (info.samplerate, info.channels) != (sample_rate, 1):
        raise DataError(
            f"{path}: expected {sample_rate} Hz and one channel, found "
            f"{info.samplerate} Hz, channels: {info.channels}: convert it, "
            f"`{convert_command(path, sample_rate, 'converted.wav')}`"
        )


def read_file(path: Path, chunk_size: int) -> Iterator[np.ndarray]:
    """Chunks (samples,) of a file; the last may be shorter.

    Raises:
        DataError: damaged, or shorter than its header says.
    """
    num_samples = 0
    try:
        with soundfile.SoundFile(str(path)) as file:
            for chunk in file.blocks(blocksize=chunk_size, dtype="float32"):
                num_samples += len(chunk)
                yield chunk
            num_promised = file.frames
    except (soundfile.SoundFileError, OSError) as e:
        raise DataError(f"{path}: unreadable ({e})") from e
    if num_samples != num_promised:
        raise DataError(
            f"{path}: its header says {num_promised} samples, {num_samples} can be read"
        )


def read_microphone(
    sample_rate: int, chunk_size: int, stop: threading.Event
) -> Iterator[np.ndarray]:
    """Chunks from the default input device, until `stop` is set.

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
