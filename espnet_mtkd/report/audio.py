"""Audio of scored utterances, as Opus for a page."""

import contextlib
import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from espnet_mtkd.data.audio import open_audio
from espnet_mtkd.data.kaldi import read_wav_scp
from espnet_mtkd.errors import DataError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.results.speakers import data_dirs

COMPRESSION = 0.95  # of libsndfile: about 20 kbit/s, at which speech is clear
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # Hz
MAX_SECONDS = 30.0  # of one utterance; longer ones are cut


def find_audio(folder: Path, dset: str, names: Iterable[str]) -> dict[str, Path]:
    """Audio files of scored utterances.

    Args:
        folder: of one decoding and test set.
        dset: name of the set.
        names: `<speaker>-<utterance>` in small letters.

    Returns:
        Name -> file; without those that no `wav.scp` has.
    """
    left = list(names)
    found = {}
    for data_dir in dict.fromkeys(data_dirs(folder, dset)):
        if not left or not (data_dir / "wav.scp").is_file():
            continue
        try:
            entries = read_wav_scp(data_dir / "wav.scp")
        except DataError:  # pipes or segments: another directory may have files
            continue
        files = {utt.lower(): audio for utt, audio in entries.items()}
        roots = [Path.cwd(), *folder.absolute().parents[:6]]
        for name in left:
            audio = files.get(_utterance(name, files))
            paths = [root / audio for root in roots] if audio else []
            path = next((x for x in paths if _is_file(x)), None)
            if path is not None:
                found[name] = path
        left = [name for name in left if name not in found]
    return found


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _utterance(name: str, known) -> str:
    """What stands behind one of the dashes of `<speaker>-<utterance>`."""
    starts = (i + 1 for i, letter in enumerate(name) if letter == "-")
    return next((name[i:] for i in starts if name[i:] in known), name)


class Encoded:
    """Opus of audio files, kept from one page to the next: a ladder writes one for each
    row, and encoding takes a core five minutes for 10 MB.

    Args:
        folder: where it is kept, by the file's path, size and time of change.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._used: set[Path] = set()

    def __call__(self, path: Path) -> bytes:
        """See `to_opus`."""
        try:
            state = path.stat()
        except OSError as e:
            raise DataError(f"{path}: unreadable ({e})") from e
        key = f"{path.absolute()} {state.st_size} {state.st_mtime_ns} {COMPRESSION}"
        kept = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.opus"
        self._used.add(kept)
        with contextlib.suppress(FileNotFoundError):
            return kept.read_bytes()
        data = to_opus(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, data)
        return data

    def drop_others(self) -> None:
        """Remove what was not asked for: the folder is not larger than a page."""
        for kept in set(self._folder.glob("*.opus")) - self._used:
            kept.unlink(missing_ok=True)


def to_opus(path: Path) -> bytes:
    """The first `MAX_SECONDS` of an audio file as Ogg Opus, one channel.

    Raises:
        DataError: it cannot be read, or is empty.
    """
    try:
        with open_audio(str(path)) as file:
            rate = file.samplerate
            samples = file.read(
                int(MAX_SECONDS * rate), dtype="float32", always_2d=True
            ).mean(1)
    except (soundfile.SoundFileError, OSError) as e:
        raise DataError(f"{path}: unreadable ({e})") from e
    if not len(samples):
        raise DataError(f"{path}: empty")
    if rate not in OPUS_RATES:
        import resampy

        samples, rate = resampy.resample(samples, rate, 16000), 16000
    buffer = io.BytesIO()
    soundfile.write(
        buffer,
        np.nan_to_num(samples).clip(-1, 1),
        rate,
        format="OGG",
        subtype="OPUS",
        compression_level=COMPRESSION,
    )
    return buffer.getvalue()
