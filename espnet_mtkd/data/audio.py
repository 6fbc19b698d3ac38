"""Look at every audio file of a data directory before training depends on it."""

import hashlib
import logging
import os
import shlex
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from filelock import FileLock
from tqdm import tqdm

from espnet_mtkd.data.containers import find_cut
from espnet_mtkd.data.kaldi import read_lengths, read_wav_scp
from espnet_mtkd.errors import DataError
from espnet_mtkd.files import write_atomically

SAMPLE_RATE = 16000  # Hz, of every upstream in s3prl, and so of every student
MIN_SAMPLES = 400  # one 25 ms frame: below it no teacher gives anything
BLOCK = 1 << 20  # samples that are read at a time
MAX_BAD_FRACTION = 0.001  # of the utterances; more than this is no accident
NUM_NAMED = 10  # bad utterances that a message names


def judge_faults(
    where, what: str, faults: list[str], num_utts: int, remedy: str
) -> str:
    """Name the first ten unusable utterances; end where they are too many.

    Args:
        where: the file or folder.
        what: is the matter with them, as a predicate.
        faults: a line for each.
        num_utts: of the data directory.
        remedy: what to do about more of them than can be an accident.

    Returns:
        The text of a warning.

    Raises:
        DataError: more than `MAX_BAD_FRACTION` of the utterances.
    """
    shown = faults[:NUM_NAMED]
    if len(faults) > NUM_NAMED:
        shown.append(f"... and {len(faults) - NUM_NAMED} more")
    head = f"{where}: {len(faults)} of {num_utts} utterances {what}:"
    text = "\n  ".join([head, *shown])
    if len(faults) > MAX_BAD_FRACTION * num_utts:
        raise DataError(
            f"{text}\nMore than {MAX_BAD_FRACTION:.1%} is no accident: {remedy}"
        )
    return text


def write_anew(audio: str) -> str:
    """What to do about a header that tells another length: a shell command.

    libsndfile does not read such a FLAC file, sox without its plugins no MP3.
    """
    if audio.endswith(".flac"):
        return f"write it anew: sox {shlex.quote(audio)} <new>.flac"
    code = f"import soundfile as s; s.write('<new>.flac', *s.read({audio!r}))"
    return f"copy it again, or write what is there: python -c {shlex.quote(code)}"


def convert_command(
    audio: str | Path, rate: int = SAMPLE_RATE, new: str = "<new file>"
) -> str:
    """A shell command that writes an audio file anew, mono and at another rate.

    Args:
        audio: path; sox without its plugins reads neither MP3 nor Opus.
        rate: Hz.
        new: what is written.
    """
    old = shlex.quote(str(audio))
    if Path(audio).suffix.lower() in (".mp3", ".opus"):
        read = f"python -m espnet_mtkd.bin.mtkd_cat_wav --audio {old} | sox -t wav -"
    else:
        read = f"sox {old}"
    return f"{read} -r {rate} -c 1 {new}"


def open_audio(audio: str) -> soundfile.SoundFile:
    """A file opened for reading; of a pipe or a device one would wait for ever.

    Raises:
        OSError, SoundFileError: not there, no regular file, or no audio.
    """
    if not stat.S_ISREG(os.stat(audio).st_mode):
        raise OSError(f"{audio}: a folder, a pipe or a device")
    return soundfile.SoundFile(audio)


def find_fault(audio: str) -> tuple[int, str | None]:
    """Number of samples of a file, and what is wrong with it (None: nothing)."""
    try:
        with open_audio(audio) as file:
            rate, num_channels = file.samplerate, file.channels
            num_promised = file.frames
            num_samples = num_bad = 0
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                num_samples += len(block)
                num_bad += int((~np.isfinite(block)).sum())
        cut = find_cut(Path(audio))
    except (soundfile.SoundFileError, OSError) as e:
        # What libsndfile says of a FLAC file whose header has no length, or more.
        remedy = f": {write_anew(audio)}" if "psf_fseek" in str(e) else ""
        return 0, f"unreadable ({e}){remedy}"
    fault = None
    if num_samples == 0:
        fault = "empty"
    elif num_samples != num_promised:
        fault = (
            f"its header says {num_promised} samples, {num_samples} can be read: "
            + write_anew(audio)
        )
    elif cut is not None:
        fault = cut
    elif rate != SAMPLE_RATE:
        fault = f"expected {SAMPLE_RATE} Hz, found {rate} Hz"
    elif num_channels != 1:
        fault = f"expected one channel, found {num_channels}"
    elif num_samples < MIN_SAMPLES:
        fault = f"expected at least {MIN_SAMPLES} samples, found {num_samples}"
    elif num_bad:
        fault = f"{num_bad} samples are NaN or infinite"
    return num_samples, fault


def check_data_dir(data_dir: Path, shape_file: Path, nj: int = 1) -> None:
    """Check all audio of `data_dir/wav.scp` and write the usable utterances' lengths.

    Args:
        data_dir: Kaldi data directory.
        shape_file: written as `<utterance> <samples>`, ESPnet's `--train_shape_file`.
            Left alone where it was made from the same wav.scp and the same files, by
            their size and the time of their last change.
        nj: processes.

    Raises:
        DataError: more than `MAX_BAD_FRACTION` of the utterances cannot be used; the
            message names them. Fewer are named in the log and left out.
    """
    wav_scp = data_dir / "wav.scp"
    entries = read_wav_scp(wav_scp)
    digest = digest_of_audio(entries)
    stamp = shape_file.with_name(shape_file.name + ".audio.sha256")
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
        text = judge_faults(
            wav_scp,
            "cannot be used",
            list(bad.values()),
            len(entries),
            "repair the files, or take their lines out of wav.scp (and then: "
            f"utils/fix_data_dir.sh {data_dir})",
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


def digest_of_audio(entries: dict[str, str]) -> str:
    """Hex sha256 of ids, paths, sizes and times of change of audio files.

    Args:
        entries: utterance -> audio file.
    """
    digest = hashlib.sha256()
    for utt, audio in entries.items():
        try:
            found = os.stat(audio)
            state = f"{found.st_size} {found.st_mtime_ns}"
        except OSError:
            state = "not there"
        digest.update(f"{utt} {audio} {state}\n".encode())
    return digest.hexdigest()


def prepare_audio(
    data_dir: Path, shape_dir: Path, nj: int
) -> tuple[dict[str, int], dict[str, str]]:
    """Lengths and files of a data directory's usable audio, checked by one process.

    Args:
        data_dir: Kaldi data directory.
        shape_dir: `<shape_dir>/<name of data_dir>/speech_shape` is read, or written.
        nj: processes.

    Returns:
        Utterance -> samples, and utterance -> audio file.

    Raises:
        DataError: see `check_data_dir`.
    """
    shape = shape_dir / data_dir.name / "speech_shape"
    # One process looks at the audio, the others find that it has done so.
    shape.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(shape.with_name(".check.lock")):
        check_data_dir(data_dir, shape, nj)
    return read_lengths(shape), read_wav_scp(data_dir / "wav.scp")
