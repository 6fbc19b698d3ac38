"""Look at every audio file of a data directory before training depends on it."""

import hashlib
import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from espnet_mtkd.errors import DataError
from espnet_mtkd.files import write_atomically
from espnet_mtkd.teachers.base import SAMPLE_RATE

MIN_SAMPLES = 400  # one 25 ms frame: below it no teacher gives anything
MAX_BAD_FRACTION = 0.001  # of the utterances; more than this is no accident
NUM_NAMED = 10  # bad utterances that a message names


def read_wav_scp(path: Path) -> dict[str, str]:
    """Utterance id -> audio file of a Kaldi `wav.scp` without pipes.

    Raises:
        DataError: missing or empty file, a repeated id, a pipe or an ark offset.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: expected a Kaldi wav.scp")
    entries = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        utt, _, audio = line.strip().partition(" ")
        audio = audio.strip()
        if not audio or audio.endswith("|"):
            raise DataError(
                f"{path}:{number}: expected '<utterance> <audio file>', found "
                f"'{line.strip()[:80]}': let asr.sh stage 3 write audio files "
                "(--feats_type raw --audio_format flac)"
            )
        if utt in entries:
            raise DataError(f"{path}:{number}: utterance {utt} stands here twice")
        entries[utt] = audio
    if not entries:
        raise DataError(f"{path}: empty: expected at least one utterance")
    return entries


def find_fault(audio: str) -> tuple[int, str | None]:
    """Number of samples of a file, and what is wrong with it (None: nothing)."""
    try:
        samples, rate = soundfile.read(audio, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as e:
        return 0, f"unreadable ({e})"
    num_samples, num_channels = samples.shape
    fault = None
    if num_samples == 0:
        fault = "empty"
    elif rate != SAMPLE_RATE:
        fault = f"expected {SAMPLE_RATE} Hz, found {rate} Hz"
    elif num_channels != 1:
        fault = f"expected one channel, found {num_channels}"
    elif num_samples < MIN_SAMPLES:
        fault = f"expected at least {MIN_SAMPLES} samples, found {num_samples}"
    elif not np.isfinite(samples).all():
        fault = f"{int((~np.isfinite(samples)).sum())} samples are NaN or infinite"
    return num_samples, fault


def check_data_dir(data_dir: Path, shape_file: Path, nj: int = 1) -> None:
    """Check all audio of `data_dir/wav.scp` and write the usable utterances' lengths.

    Args:
        data_dir: Kaldi data directory.
        shape_file: written as `<utterance> <samples>`, ESPnet's `--train_shape_file`.
            Left alone where it was made from the same wav.scp.
        nj: processes.

    Raises:
        DataError: more than `MAX_BAD_FRACTION` of the utterances cannot be used; the
            message names them. Fewer are named in the log and left out.
    """
    wav_scp = data_dir / "wav.scp"
    entries = read_wav_scp(wav_scp)
    digest = hashlib.sha256(wav_scp.read_bytes()).hexdigest()
    stamp = shape_file.with_name(shape_file.name + ".wav_scp.sha256")
    if shape_file.is_file() and stamp.is_file() and stamp.read_text() == digest:
        logging.info("%s: checked before, %s stands", data_dir, shape_file)
        return
    audios = list(entries.values())
    if nj > 1:
        with ProcessPoolExecutor(nj) as pool:
            results = pool.map(find_fault, audios, chunksize=64)
            found = list(tqdm(results, f"audio of {data_dir}", len(audios)))
    else:
        found = [find_fault(a) for a in tqdm(audios, f"audio of {data_dir}")]
    bad = {
        utt: f"{utt} ({audio}): {fault}"
        for (utt, audio), (_, fault) in zip(entries.items(), found, strict=True)
        if fault is not None
    }
    if bad:
        shown = list(bad.values())[:NUM_NAMED]
        if len(bad) > NUM_NAMED:
            shown.append(f"... and {len(bad) - NUM_NAMED} more")
        text = (
            f"{wav_scp}: {len(bad)} of {len(entries)} utterances cannot be used:\n  "
            + "\n  ".join(shown)
        )
        if len(bad) > MAX_BAD_FRACTION * len(entries):
            raise DataError(
                f"{text}\nMore than {MAX_BAD_FRACTION:.1%} is no accident: repair the "
                "files, or take the utterances out of the data directory "
                "(utils/fix_data_dir.sh)"
            )
        logging.warning("%s\nThey are left out.", text)
    lines = [
        f"{utt} {num_samples}\n"
        for utt, (num_samples, _) in zip(entries, found, strict=True)
        if utt not in bad
    ]
    shape_file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(shape_file, "".join(lines).encode())
    write_atomically(stamp, digest.encode())


def read_lengths(shape_file: Path) -> dict[str, int]:
    """Utterance -> samples, of a file that `check_data_dir` wrote.

    Raises:
        DataError: a line of another form.
    """
    lengths = {}
    for number, line in enumerate(shape_file.read_text("utf-8").splitlines(), 1):
        utt, _, num_samples = line.partition(" ")
        if not num_samples.isdigit():
            raise DataError(
                f"{shape_file}:{number}: expected '<utterance> <samples>', found "
                f"'{line[:80]}'"
            )
        lengths[utt] = int(num_samples)
    return lengths
