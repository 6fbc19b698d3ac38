"""Recordings made into what training takes: one channel, no longer than is wanted."""

import dataclasses
import io
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from espnet_mtkd.data.audio import BLOCK, open_audio
from espnet_mtkd.data.kaldi import read_lengths, read_wav_scp
from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.files import write_atomically

FRAME = 160  # samples over which a pause is looked for
SMOOTH = 20  # frames that a pause should last
CUT_AT = 0.78  # of the longest duration: about as long pieces become
SEARCH = 0.1  # of it: how far from there a pause is looked for


@dataclasses.dataclass(frozen=True)
class Durations:
    """What becomes of recordings of which length; in seconds.

    Attributes:
        shortest, longest: recordings between them stay as they are.
        cut: cut longer ones at pauses; else they are left out.
    """

    shortest: float
    longest: float
    cut: bool = True


def format_audio(
    data_dir: Path,
    channel: str = "mean",
    out_dir: Path | None = None,
    durations: Durations | None = None,
    nj: int = 1,
) -> None:
    """Make a directory that ESPnet's `format_wav_scp.sh` wrote ready for training.

    Args:
        data_dir: with `wav.scp` and, for `durations`, `utt2num_samples`.
        channel: of audio with several: `mean`, or one of them, from 0.
        out_dir: where `wav.scp`, `utt2num_samples` and new files are written (default:
            `data_dir`).
        durations: which lengths are kept, cut or left out (default: all kept).
        nj: files looked at beside each other.

    A file whose header cannot be read stays as it is: the look at all audio names it.

    Raises:
        ConfigError: a channel that is neither `mean` nor a number.
        DataError: a channel that a file has not; nothing is left.
        DiskError: no space.
    """
    if channel != "mean" and not re.fullmatch("[0-9]{1,4}", channel):
        raise ConfigError(
            f"--channel: expected mean or a number from 0, found '{channel}'"
        )
    out_dir = out_dir or data_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    entries = read_wav_scp(data_dir / "wav.scp")
    with ThreadPoolExecutor(nj) as pool:
        many = dict(
            zip(entries, pool.map(count_channels, entries.values()), strict=True)
        )
    many = {utt: num for utt, num in many.items() if num > 1}
    for utt in tqdm(many, f"one channel of {data_dir}", disable=not many):
        entries[utt] = str(
            write_mono(entries[utt], out_dir / "mono" / file_name(utt), channel, utt)
        )
    if many:
        logging.info(
            "%s: %d of %d recordings have several channels (up to %d): %s (--channel)",
            data_dir,
            len(many),
            len(entries),
            max(many.values()),
            "their mean is taken" if channel == "mean" else f"{channel} is taken",
        )
    tables = {"wav.scp": entries}
    if durations is not None:
        lengths = read_lengths(data_dir / "utt2num_samples")
        entries, lengths = apply_durations(entries, lengths, durations, out_dir)
        tables = {"wav.scp": entries, "utt2num_samples": lengths}
    for name, table in tables.items():
        lines = "".join(f"{utt} {value}\n" for utt, value in table.items())
        write_atomically(out_dir / name, lines.encode())


def file_name(utt: str) -> str:
    """Name of a file for an utterance, whose id may have slashes."""
    return utt.replace("%", "%25").replace("/", "%2F") + ".flac"


def count_channels(audio: str) -> int:
    """Channels of a file; 1 where it cannot be read."""
    try:
        with open_audio(audio) as file:
            return file.channels
    except (soundfile.SoundFileError, OSError):
        return 1


def write_mono(audio: str, out: Path, channel: str, utt: str) -> Path:
    """Write one channel of a file, or the mean of all, as 16-bit FLAC.

    Raises:
        DataError: the file has no such channel.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with soundfile.SoundFile(audio) as source:
        if channel != "mean" and int(channel) >= source.channels:
            raise DataError(
                f"{utt} ({audio}): expected a channel {channel}, counted from 0, found "
                f"{source.channels}: give --channel mean, or one that all files have"
            )
        with soundfile.SoundFile(
            buffer, "w", source.samplerate, 1, "PCM_16", format="FLAC"
        ) as target:
            for block in source.blocks(BLOCK, always_2d=True, dtype="float32"):
                mean = block.mean(1) if channel == "mean" else block[:, int(channel)]
                target.write(mean)
    write_atomically(out, buffer.getbuffer())
    return out


# ------------------------------------------------------------- durations


def apply_durations(
    entries: dict[str, str], lengths: dict[str, int], durations: Durations, out_dir
) -> tuple[dict[str, str], dict[str, int]]:
    """Leave out what is too short, cut or leave out what is too long, and say so.

    Args:
        entries: utterance -> audio file.
        lengths: utterance -> samples.
        durations: the limits.
        out_dir: where pieces are written.

    Returns:
        Both, of what is kept.

    Raises:
        DataError: nothing is kept.
    """
    rate = 16000
    for audio in entries.values():
        try:
            with open_audio(audio) as file:
                rate = file.samplerate
            break
        except (soundfile.SoundFileError, OSError):
            continue
    least, most = durations.shortest * rate, durations.longest * rate
    short = [u for u in entries if lengths[u] <= least]
    long = [u for u in entries if lengths[u] >= most]
    kept = {u: a for u, a in entries.items() if least < lengths[u] < most}
    if short:
        logging.warning(
            "%s: %d of %d recordings are not longer than --min_wav_duration %g s (%.1f "
            "s in all): left out: %s",
            out_dir,
            len(short),
            len(entries),
            durations.shortest,
            sum(lengths[u] for u in short) / rate,
            ", ".join(short[:5]) + ", ..." * (len(short) > 5),
        )
    if long:
        num_pieces = 0
        for utt in tqdm(long if durations.cut else [], f"pauses of {out_dir}"):
            for piece, path, num in cut_at_pauses(
                utt, entries[utt], int(most), out_dir / "pieces"
            ):
                if piece in entries:
                    raise DataError(
                        f"{out_dir}: a piece of {utt} would be called {piece}, as a "
                        "recording is: rename one of them, or --cut_unlabelled false"
                    )
                kept[piece], lengths[piece] = str(path), num
                num_pieces += 1
        logging.warning(
            "%s: %d of %d recordings are longer than --max_wav_duration %g s (%.1f s "
            "in all): %s",
            out_dir,
            len(long),
            len(entries),
            durations.longest,
            sum(lengths[u] for u in long) / rate,
            f"cut at pauses into {num_pieces} pieces"
            if durations.cut
            else "left out (--cut_unlabelled false)",
        )
    if not kept:
        raise DataError(
            f"{out_dir}: none of {len(entries)} recordings is longer than "
            f"--min_wav_duration {durations.shortest:g} s and shorter than "
            f"--max_wav_duration {durations.longest:g} s: change these, or let longer "
            "ones be cut (--cut_unlabelled true)"
        )
    kept = dict(sorted(kept.items()))
    return kept, {utt: lengths[utt] for utt in kept}


def cut_at_pauses(
    utt: str, audio: str, longest: int, folder: Path
) -> Iterator[tuple[str, Path, int]]:
    """Write the pieces of a long recording.

    Args:
        utt: its id; pieces are `<utt>-0001` and so on.
        audio: the file, one channel.
        longest: samples that a piece has at most.
        folder: for the pieces.

    Yields:
        Id, file and samples of each piece. One after the other they are the recording.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with soundfile.SoundFile(audio) as source:
        energy = np.concatenate(
            [frame_energy(x) for x in source.blocks(BLOCK // FRAME * FRAME)]
        )
        ends = [*find_pauses(energy, len(source), longest), len(source)]
        begin = 0
        for number, end in enumerate(ends, 1):
            source.seek(begin)
            piece = f"{utt}-{number:04d}"
            path = folder / file_name(piece)
            samples = source.read(end - begin, dtype="float32")
            buffer = io.BytesIO()
            soundfile.write(buffer, samples, source.samplerate, "PCM_16", format="FLAC")
            write_atomically(path, buffer.getbuffer())
            yield piece, path, end - begin
            begin = end


def frame_energy(samples: np.ndarray) -> np.ndarray:
    """Mean square of each whole frame of `FRAME` samples; (N,) -> (N // FRAME,)."""
    num = len(samples) // FRAME
    return np.square(samples[: num * FRAME].reshape(num, FRAME)).mean(1)


def find_pauses(energy: np.ndarray, num_samples: int, longest: int) -> list[int]:
    """Samples at which a recording is cut into pieces of about one length.

    Pieces of equal length, at most `CUT_AT` of the longest, would end at multiples of
    it; each end is moved to the quietest `SMOOTH` frames within `SEARCH` of the longest
    before or after.

    Args:
        energy: (T,) of each frame.
        num_samples: of the recording.
        longest: samples that a piece has at most.

    Returns:
        The cuts, ascending; without 0 and the end.
    """
    num_pieces = int(np.ceil(num_samples / (CUT_AT * longest)))
    quiet = np.convolve(energy, np.ones(SMOOTH) / SMOOTH, "same")
    reach = max(1, int(SEARCH * longest / FRAME))
    cuts = []
    for k in range(1, num_pieces):
        ideal = round(k * num_samples / num_pieces / FRAME)
        first = max(1, ideal - reach)
        cuts.append((first + int(quiet[first : ideal + reach].argmin())) * FRAME)
    return cuts
