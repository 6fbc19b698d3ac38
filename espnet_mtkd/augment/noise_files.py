"""A user's folder of noises: which files there are, and parts of audio files."""

import os
from pathlib import Path

import numpy as np
import soundfile

from espnet_mtkd.augment.noise_options import SECTION
from espnet_mtkd.data.audio import SAMPLE_RATE, convert_command
from espnet_mtkd.data.containers import find_cut
from espnet_mtkd.errors import ConfigError, DataError, name_ten

# Of files that libsndfile may read, in whatever case.
SUFFIXES = {
    *(".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au"),
    *(".caf", ".sph", ".w64", ".rf64"),
}
UNKNOWN = 2**63 - 1  # samples, where a header does not tell (libsndfile)


def find_noises(folder: str | Path) -> list[str]:
    """Audio files in a folder and in all folders in it, links too, in a fixed order.

    Raises:
        ConfigError: no such folder, or no audio in it.
    """
    where = f"{SECTION}.noise_dir: {folder}"
    if not Path(folder).is_dir():
        raise ConfigError(f"{where}: expected a folder of audio files, found none")
    found, visited = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        visited.add(os.path.realpath(parent))
        folders[:] = [  # a link back to a parent would never end
            x for x in folders if os.path.realpath(f"{parent}/{x}") not in visited
        ]
        found += [f"{parent}/{x}" for x in files if Path(x).suffix.lower() in SUFFIXES]
    if not found:
        raise ConfigError(
            f"{where}: expected audio files ({', '.join(sorted(SUFFIXES))}) in it or "
            "in folders in it, found none: name another folder, or take files and "
            "noise_dir out: babble and coloured noise need none"
        )
    return sorted(found)


def check_noises(paths: list[str]) -> None:
    """Refuse noises that are not mono at 16 kHz, or not whole, by their headers.

    Raises:
        ConfigError: naming the first ten.
    """
    faults, convertible = [], []
    for path in paths:
        try:
            header, cut = soundfile.info(path), find_cut(Path(path))
        except (soundfile.SoundFileError, OSError) as e:
            faults.append(f"{path}: unreadable ({e})")
            continue
        if header.frames == 0:
            faults.append(f"{path}: empty")
        elif cut is not None:
            faults.append(f"{path}: {cut}")
        elif header.frames == UNKNOWN:
            faults.append(f"{path}: its header does not tell its length")
            convertible.append(path)
        elif (header.samplerate, header.channels) != (SAMPLE_RATE, 1):
            found = f"{header.samplerate} Hz, channels: {header.channels}"
            faults.append(f"{path} ({found})")
            convertible.append(path)
    if faults:
        remedy = "take them out of the folder"
        if convertible:
            remedy += f", or write them anew: {convert_command(convertible[0])}"
        raise ConfigError(
            f"{SECTION}.noise_dir: expected {SAMPLE_RATE} Hz, one channel and at least "
            f"a sample, found {len(faults)} of {len(paths)} files otherwise: "
            f"{name_ten(faults)}: {remedy}"
        )


def read_part(
    path: str, num_samples: int, generator: np.random.Generator
) -> np.ndarray:
    """A random part of an audio file; of a shorter one, the whole again and again.

    Args:
        path: of the file.
        num_samples: N.
        generator: of where the part begins.

    Returns:
        (N,) float32, of the first channel.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with soundfile.SoundFile(path) as file:
            spare = file.frames - num_samples
            start = int(generator.integers(abs(spare) + 1))
            if spare > 0:
                file.seek(start)
            wave = file.read(num_samples, dtype="float32", always_2d=True)[:, 0]
    except (soundfile.SoundFileError, OSError) as e:
        raise DataError(
            f"{path}: unreadable ({e}): it was there when the training began, or "
            f"mtkd_doctor has not looked at it. It was to be heard as noise ({SECTION})"
        ) from e
    if len(wave) == 0:
        return np.zeros(num_samples, np.float32)
    if len(wave) < num_samples:
        wave = np.resize(np.roll(wave, start), num_samples)
    return wave
