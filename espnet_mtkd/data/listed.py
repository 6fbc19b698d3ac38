"""The audio of a training that somebody begins by hand: all of it looked at, once.

What mtkd_doctor, or an earlier training, has found fit is not read again: beside each
wav.scp stands a digest of every list of utterances that was.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from espnet_mtkd.data.audio import SAMPLE_RATE, digest_of_audio, find_fault
from espnet_mtkd.data.kaldi import numbered_lines, read_wav_scp, to_samples
from espnet_mtkd.errors import DataError, DiskError, name_ten
from espnet_mtkd.files import write_atomically

CHECKED = ".audio_checked"  # file of digests
KEPT = 20  # of them, the newest
MAX_SECONDS = 600  # of an utterance: memory grows with the square of it
MAX_THREADS = 8  # decoding gives Python's lock free


def read_samples(shape_file: Path) -> dict[str, int]:
    """Utterance -> samples, of a shape file of ESPnet's: `<utterance> <samples>[,...]`.

    Raises:
        DataError: a line of another form.
    """
    lengths = {}
    for number, utt, shape in numbered_lines(shape_file, "'<utterance> <samples>'"):
        samples = to_samples(shape.partition(",")[0])
        if samples is None:
            raise DataError(
                f"{shape_file}:{number}: expected '<utterance> <samples>', found "
                f"'{utt} {shape[:80]}'"
            )
        lengths[utt] = samples
    if not lengths:
        raise DataError(f"{shape_file}: empty: expected at least one utterance")
    return lengths


def refuse_long(where: Path, lengths: dict[str, int]) -> None:
    """Refuse utterances that no machine's memory takes.

    Args:
        where: the lengths stand.
        lengths: utterance -> samples.

    Raises:
        DataError: naming the first ten.
    """
    long = [
        f"{utt} ({num / SAMPLE_RATE:.0f} s)"
        for utt, num in lengths.items()
        if num > MAX_SECONDS * SAMPLE_RATE
    ]
    if long:
        raise DataError(
            f"{where}: {len(long)} utterances are longer than {MAX_SECONDS} s: "
            f"{name_ten(long)}: cut them by segments, or leave them out "
            "(mtkd.sh: --max_wav_duration)"
        )


def check_listed(wav_scp: Path, lengths: dict[str, int], where: Path, folder: Path):
    """Look at the audio of all utterances that a training is going to read.

    Several processes may call it; one reads, the others wait and find it done.

    Args:
        wav_scp: of the data set, without pipes.
        lengths: utterance -> samples, which the audio must have.
        where: these stand, for messages.
        folder: of the training; the digest is written there too, where the data
            directory cannot be written.

    Raises:
        DataError: naming the first ten utterances whose audio cannot be used, is not
            there, or has another length.
    """
    entries = read_wav_scp(wav_scp)
    missing = [utt for utt in lengths if utt not in entries]
    if missing:
        raise DataError(
            f"{wav_scp}: no line for {len(missing)} utterances of {where}: "
            f"{name_ten(missing)}: run mtkd_doctor for this directory again"
        )
    refuse_long(where, lengths)
    listed = {utt: entries[utt] for utt in lengths}
    name = hashlib.sha256(str(wav_scp.resolve()).encode()).hexdigest()[:16]
    files = [wav_scp.with_name(CHECKED), folder / f"{CHECKED}.{name}"]
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{CHECKED}.{name}.lock"):
        digest = digest_of_list(listed, lengths)
        if any(digest in read_digests(path) for path in files):
            return
        threads = min(MAX_THREADS, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(threads) as pool:
            found = pool.map(find_fault, listed.values())
            label = f"audio of {wav_scp.parent}, which nobody has checked"
            found = list(tqdm(found, label, len(listed)))
        faults = []
        for (utt, audio), (num, fault) in zip(listed.items(), found, strict=True):
            if fault is None and num != lengths[utt]:
                fault = f"{num} samples, but {lengths[utt]} in {where}"
            if fault is not None:
                faults.append(f"{utt} ({audio}): {fault}")
        if faults:
            raise DataError(
                f"{wav_scp}: {len(faults)} of {len(listed)} utterances cannot be used:"
                + "".join(f"\n  {x}" for x in faults[:10])
                + ("\n  ..." if len(faults) > 10 else "")
                + f"\nRepair the files, or take their lines out of {where}: "
                "mtkd_doctor writes one without them"
            )
        note_digest(digest, files)


def note_listed(wav_scp: Path, listed: dict[str, str], lengths: dict[str, int]) -> None:
    """Write down that the audio of a list was found fit, where that can be written.

    Args:
        wav_scp: of the data set.
        listed: utterance -> audio file.
        lengths: utterance -> samples.
    """
    note_digest(digest_of_list(listed, lengths), [wav_scp.with_name(CHECKED)])


def digest_of_list(listed: dict[str, str], lengths: dict[str, int]) -> str:
    """Of files, as `digest_of_audio` sees them, and lengths, in whatever order."""
    listed = dict(sorted(listed.items()))
    text = "".join(f"{utt} {lengths[utt]}\n" for utt in listed)
    return hashlib.sha256((digest_of_audio(listed) + text).encode()).hexdigest()


def read_digests(path: Path) -> list[str]:
    """The lines of such a file; none where it is not there, or cannot be read."""
    try:
        return path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []


def note_digest(digest: str, files: Sequence[Path]) -> None:
    """Add a line to the first of these files that can be written."""
    for path in files:
        kept = [x for x in read_digests(path) if x != digest][1 - KEPT :]
        with contextlib.suppress(DiskError, OSError):  # read-only data are no fault
            write_atomically(path, "".join(f"{x}\n" for x in [*kept, digest]).encode())
            return
    logging.info("%s: cannot be written: the audio is looked at again", files[0])
