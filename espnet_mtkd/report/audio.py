"""Audio of scored utterances, as Opus for a page."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

from espnet_mtkd.data.audio import open_audio
from espnet_mtkd.data.kaldi import read_wav_scp
from espnet_mtkd.errors import DataError
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
