#!/usr/bin/env python3
"""Asterisk English prompts -> Kaldi data directories train, valid and test.

Input: a folder that holds, at any depth, `core-sounds-en.txt` (or `.txt.gz`) and the
G.722 prompts of release 1.6.1 (`digits/1.g722` marks their root). Output, under
`--data_dir`: `audio/*.flac` (16 kHz, 16 bit, mono) and `{train,valid,test}/` with
wav.scp, text, utt2spk, spk2utt.

Text is upper case A-Z, apostrophe and space. Numbers are spelled out, acronyms that the
speaker spells are spaced letters, stage directions in brackets are removed.

The split is by a hash of the normalised text, so prompts that say the same thing are
all on one side, and adding a prompt moves no other. Test and valid hold prompts of two
words or more (single letters not counted): isolated letters, digits and words are
practice for the alphabet, not a test of sentences, and all of them go to train.
"""

import argparse
import collections
import errno
import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SAMPLE_RATE = 16000
SPLITS = ("train", "valid", "test")
KALDI_FILES = ("wav.scp", "text", "utt2spk", "spk2utt")

MIN_SECONDS = 0.3
MAX_TEST_WORDS = 35  # longer texts, of about 15 s and more, only in train
MAX_SECONDS = 29.0  # Whisper hears 30 s
# Characters (spaces included) per second that a reader can produce. Outside, text and
# audio do not belong together. The lower bound is for two words or more: a single
# letter is one character in the better part of a second.
MIN_CHARS_PER_SECOND = 2.0
MAX_CHARS_PER_SECOND = 30.0

# Shares of the hash range given to test and valid, among the prompts of two words or
# more (somewhat over half of all): about 18 % and 10 % of all utterances.
TEST_SHARE = 0.35
VALID_SHARE = 0.18

NEEDED_BYTES = 200 * 2**20

# Over every transcript and prompt of release 1.6.1, see `release_digest`.
RELEASE_1_6_1 = "1dc12d77c6b4999e4b5cd84123dc23a290b9e9cbe054e626125afb6b5de5839d"


@dataclass(frozen=True)
class Voice:
    """One language's prompts: who speaks, and where the text is."""

    speaker: str
    transcript: str
    marker: str = "digits/1.g722"  # a prompt that every release has


ENGLISH = Voice(speaker="allison", transcript="core-sounds-en.txt")


class PrepareError(Exception):
    """A one-line message and the exit code (2 usage, 4 data, 6 disk)."""

    def __init__(self, message: str, exit_code: int = 4):
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Utterance:
    """One prompt: id, normalised text (None: not known), audio length in samples."""

    utt_id: str
    text: str | None
    num_samples: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.num_samples / SAMPLE_RATE


# ---------------------------------------------------------------- text

# fmt: off
_ONES = (
    "ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE",
    "TEN", "ELEVEN", "TWELVE", "THIRTEEN", "FOURTEEN", "FIFTEEN", "SIXTEEN",
    "SEVENTEEN", "EIGHTEEN", "NINETEEN",
)
_TENS = (
    "TWENTY", "THIRTY", "FORTY", "FIFTY", "SIXTY", "SEVENTY", "EIGHTY", "NINETY",
)
# fmt: on
_SYMBOLS = {
    "#": "POUND",
    "*": "STAR",
    "&": "AND",
    "%": "PERCENT",
    "$": "DOLLAR",
    "@": "AT",
    "+": "PLUS",
    "=": "EQUALS",
}
# Read letter by letter.
_SPELLED = frozenset(("IVR", "MGCP", "PBX", "USB", "WWW"))
# Slips of the pen in the released transcripts.
_CORRECTED = {
    "EXCLAIMATION": "EXCLAMATION",
    "REPRESENATIVES": "REPRESENTATIVES",
    "THRU": "THROUGH",
    "UMUTE": "UNMUTE",
    "UNINDENTIFIED": "UNIDENTIFIED",
    "WITHELD": "WITHHELD",
}


def spell_number(digits: str) -> str:
    """Spell a string of digits as a telephone voice reads it.

    Below 100 as a cardinal, whole hundreds below 1000 as such, anything else (and
    anything with a leading zero) digit by digit.
    """
    value = int(digits)
    if digits == str(value):
        if value < 20:
            return _ONES[value]
        if value < 100:
            tens = _TENS[value // 10 - 2]
            return tens if value % 10 == 0 else f"{tens} {_ONES[value % 10]}"
        if value < 1000 and value % 100 == 0:
            return f"{_ONES[value // 100]} HUNDRED"
    return " ".join(_ONES[int(d)] for d in digits)


def normalize(text: str) -> str:
    """Return `text` as words of A-Z and apostrophe, single spaces, upper case.

    A transcript with nothing spoken in it gives the empty string.
    """
    text = re.sub(r"\[[^]]*\]|\([^)]*\)|<[^>]*>", " ", text)  # stage directions
    text = text.upper().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    text = re.sub(r"(?<=[0-9])\.(?=[0-9])", " POINT ", text)
    text = re.sub(r"\b([A-Z])\.(?=[A-Z0-9]\b)", r"\1 ", text)  # A.M., H.323
    text = re.sub(r"(?<=[A-Z])\.(?=[A-Z]{2})", " DOT ", text)  # asterisk.org
    text = re.sub(r"\b(DE|RE|UN)-(?=[A-Z])", r"\1", text)
    text = re.sub(r"[0-9]+", lambda m: f" {spell_number(m.group())} ", text)
    for symbol, word in _SYMBOLS.items():
        text = text.replace(symbol, f" {word} ")
    text = re.sub(r"[^A-Z']", " ", text)
    words = []
    for word in text.split():
        word = word.strip("'")
        word = _CORRECTED.get(word, word)
        words.append(" ".join(word) if word in _SPELLED else word)
    return " ".join(" ".join(words).split())


# ---------------------------------------------------------------- source


def find_source(root: Path, voice: Voice) -> tuple[Path, Path]:
    """Return the transcript file and the folder of prompts somewhere under `root`."""
    transcripts = sorted(
        p for end in ("", ".gz") for p in root.rglob(voice.transcript + end)
    )
    markers = sorted(root.rglob(voice.marker))
    for what, found in ((voice.transcript, transcripts), (voice.marker, markers)):
        if not found:
            raise PrepareError(
                f"{root}: no {what} in it; expected the unpacked prompts (G.722) with "
                "their transcripts; let ASTERISK name such a folder, or unset it"
            )
        if len({_digest(p) for p in found}) > 1:
            raise PrepareError(
                f"{root}: {len(found)} different files named {what}, the first two "
                f"{found[0]} and {found[1]}; keep one release"
            )
    depth = len(Path(voice.marker).parts)
    return transcripts[0], markers[0].parents[depth - 1]


def _read_transcript(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _digest(path: Path) -> str:
    return hashlib.sha256(_read_transcript(path)).hexdigest()


def read_prompts(path: Path) -> dict[str, str]:
    """Read `name: text` lines (`;` starts a comment) into a dict, in file order."""
    prompts: dict[str, str] = {}
    for number, line in enumerate(_read_transcript(path).decode("utf-8").splitlines()):
        if not line.strip() or line.startswith(";"):
            continue
        name, colon, text = line.partition(":")
        if not colon or not re.fullmatch(r"[\w./-]+", name) or ".." in name:
            raise PrepareError(
                f"{path}: line {number + 1}: expected 'name: text', found {line[:60]!r}"
            )
        if prompts.setdefault(name, text.strip()) != text.strip():
            raise PrepareError(f"{path}: line {number + 1}: {name} has two texts")
    return prompts


def release_digest(transcript: Path, sounds: Path) -> str:
    """Digest of the transcripts and of every prompt's name and bytes."""
    total = hashlib.sha256(_digest(transcript).encode())
    for path in sorted(sounds.rglob("*.g722"), key=lambda p: p.as_posix()):
        name = path.relative_to(sounds).as_posix()
        total.update(
            f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return total.hexdigest()


# ---------------------------------------------------------------- audio


def decode_g722(path: Path):
    """Decode a raw 64 kbit/s G.722 file.

    Returns:
        int16 array (N,), 16 kHz. G.722 has one byte for two samples.

    Raises:
        ValueError: the file is empty or doesn't decode to twice its bytes.
    """
    import av
    import numpy as np

    num_bytes = path.stat().st_size
    if num_bytes == 0:
        raise ValueError("empty file")
    try:
        with av.open(str(path), format="g722") as container:
            stream = container.streams.audio[0]
            if stream.rate != SAMPLE_RATE or stream.channels != 1:
                raise ValueError(f"{stream.rate} Hz, {stream.channels} channels")
            chunks = [frame.to_ndarray()[0] for frame in container.decode(stream)]
    except av.FFmpegError as e:
        raise ValueError(f"not decodable ({e})") from e
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    if samples.dtype != np.int16 or len(samples) != 2 * num_bytes:
        raise ValueError(
            f"{len(samples)} {samples.dtype} samples from {num_bytes} bytes, "
            f"expected {2 * num_bytes} of int16"
        )
    return samples


def write_flac(path: Path, samples) -> None:
    """Write int16 samples (N,) at 16 kHz, making the folder."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, SAMPLE_RATE, format="FLAC", subtype="PCM_16")


# ---------------------------------------------------------------- selection


def reason_to_drop(text: str, num_samples: int) -> str | None:
    """Say why an utterance is of no use, or None. Lengths in samples at 16 kHz."""
    seconds = num_samples / SAMPLE_RATE
    if not text:
        return "no words (tone, silence)"
    if seconds < MIN_SECONDS:
        return f"shorter than {MIN_SECONDS} s"
    if seconds > MAX_SECONDS:
        return f"longer than {MAX_SECONDS:g} s"
    rate = len(text) / seconds
    if rate > MAX_CHARS_PER_SECOND:
        return f"more than {MAX_CHARS_PER_SECOND:g} characters per second"
    if " " in text and rate < MIN_CHARS_PER_SECOND:
        return f"less than {MIN_CHARS_PER_SECOND:g} characters per second"
    return None


def _position(text: str) -> float:
    """Map a text to [0, 1), the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def choose_split(text: str) -> str:
    """Return train, valid or test for a normalised text.

    Single words and letters, and the few prompts that read out a whole menu, are for
    training alone: the measure is sentences.
    """
    words = text.split()
    if sum(len(word) > 1 for word in words) < 2 or len(words) > MAX_TEST_WORDS:
        return "train"
    position = _position(text)
    if position < TEST_SHARE:
        return "test"
    return "valid" if position < TEST_SHARE + VALID_SHARE else "train"


def shorten(utterances: list[Utterance], max_utts: int) -> list[Utterance]:
    """Keep `max_utts` (0: all), by hash of the text, from the shorter three quarters.

    The pool is enlarged where it holds fewer than `max_utts`.
    """
    if not max_utts or max_utts >= len(utterances):
        return utterances
    by_length = sorted(utterances, key=lambda u: (u.num_samples, u.utt_id))
    pool = by_length[: max(max_utts, 3 * len(by_length) // 4)]
    return sorted(pool, key=lambda u: (_position(u.text), u.utt_id))[:max_utts]


# ---------------------------------------------------------------- output


def write_kaldi_dir(folder: Path, utterances: list[Utterance], audio: str, spk: str):
    """Write wav.scp, text, utt2spk and spk2utt, sorted as the C locale sorts.

    There is no file `text` where an utterance has none.
    """
    folder.mkdir(parents=True)
    utterances = sorted(utterances, key=lambda u: u.utt_id.encode())
    lines = {
        "wav.scp": [f"{u.utt_id} {audio}/{u.utt_id}.flac" for u in utterances],
        "text": [f"{u.utt_id} {u.text}" for u in utterances],
        "utt2spk": [f"{u.utt_id} {spk}" for u in utterances],
        "spk2utt": [" ".join([spk, *(u.utt_id for u in utterances)])],
    }
    if any(u.text is None for u in utterances):
        del lines["text"]
    for name in lines:
        (folder / name).write_text("".join(f"{line}\n" for line in lines[name]))


def summary(splits: dict[str, list[Utterance]]) -> str:
    """Table of utterances, hours, words, and words never seen in train."""
    known = {word for u in splits["train"] for word in u.text.split()}
    rows = ["split   utterances    hours   words   vocabulary   words not in train"]
    for name in SPLITS:
        words = [word for u in splits[name] for word in u.text.split()]
        unseen = sum(word not in known for word in words)
        hours = sum(u.seconds for u in splits[name]) / 3600
        share = 100 * unseen / max(1, len(words))
        rows.append(
            f"{name:5} {len(splits[name]):12d} {hours:8.3f} {len(words):7d} "
            f"{len(set(words)):12d} {unseen:12d} ({share:.1f} %)"
        )
    return "\n".join(rows)


def _state(data_dir: Path) -> dict:
    """What is on disk: digests of the Kaldi files, names and sizes of the audio."""
    state = {}
    for split in SPLITS:
        for name in KALDI_FILES:
            path = data_dir / split / name
            if path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                state[f"{split}/{name}"] = digest
    sizes = "".join(
        f"{path.name} {path.stat().st_size}\n"
        for path in sorted((data_dir / "audio").glob("*.flac"))
    )
    state["audio"] = hashlib.sha256(sizes.encode()).hexdigest()
    return state


def prepare(
    source: Path,
    data_dir: Path,
    voice: Voice = ENGLISH,
    max_train_utts: int = 0,
    max_test_utts: int = 0,
) -> bool:
    """Make the data directories, or find them made.

    Everything is built beside its final place and moved at the end; the stamp, written
    last, is what makes it whole.

    Returns:
        True where something was written, False where all was there already.
    """
    begin = time.monotonic()
    stamp_path = data_dir / ".asterisk_stamp.json"
    transcript, sounds = find_source(source, voice)
    release = release_digest(transcript, sounds)
    options = {
        "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        "data_dir": str(data_dir),
        "release": release,
        "max_train_utts": max_train_utts,
        "max_test_utts": max_test_utts,
    }
    if stamp_path.is_file():
        try:
            stamp = json.loads(stamp_path.read_text())
        except ValueError:
            stamp = {}
        if stamp.get("options") == options and stamp.get("state") == _state(data_dir):
            print(f"{data_dir}: already prepared, nothing to do")
            return False
        print(f"{data_dir}: options or files have changed, preparing again")

    if release != RELEASE_1_6_1:
        print(
            f"warning: {source}: not the prompts of release 1.6.1 (digest "
            f"{release[:16]}, expected {RELEASE_1_6_1[:16]}): results won't compare",
            file=sys.stderr,
        )

    data_dir.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(data_dir).free
    if free < NEEDED_BYTES:
        raise PrepareError(
            f"{data_dir}: {free >> 20} MB free, {NEEDED_BYTES >> 20} MB needed", 6
        )
    part = data_dir / ".asterisk.part"
    shutil.rmtree(part, ignore_errors=True)

    dropped = collections.defaultdict(list)
    unreadable = []
    splits: dict[str, list[Utterance]] = {name: [] for name in SPLITS}
    prompts = read_prompts(transcript)
    for name, raw_text in prompts.items():
        path = sounds / f"{name}.g722"
        if not path.is_file():
            dropped["no audio file"].append(name)
            continue
        try:
            samples = decode_g722(path)
        except ValueError as e:
            unreadable.append(f"{path}: {e}")
            continue
        text = normalize(raw_text)
        reason = reason_to_drop(text, len(samples))
        if reason:
            dropped[reason].append(name)
            continue
        utt_id = f"{voice.speaker}-{name.replace('/', '_')}"
        splits[choose_split(text)].append(Utterance(utt_id, text, len(samples)))
        write_flac(part / "audio" / f"{utt_id}.flac", samples)
    if unreadable:
        raise PrepareError(
            f"{len(unreadable)} of {len(prompts)} prompts cannot be read: "
            + "; ".join(unreadable[:5])
        )
    for path in sounds.rglob("*.g722"):
        name = path.relative_to(sounds).with_suffix("").as_posix()
        if name not in prompts:
            dropped["no transcript"].append(name)
    for reason, names in sorted(dropped.items()):
        print(f"dropped {len(names)}, {reason}: {' '.join(sorted(names))}")

    splits["train"] = shorten(splits["train"], max_train_utts)
    for name in ("valid", "test"):
        splits[name] = shorten(splits[name], max_test_utts)
    for name, utterances in splits.items():
        if not utterances:
            raise PrepareError(f"{source}: nothing left for {name}")
        audio = f"{data_dir}/audio"
        write_kaldi_dir(part / name, utterances, audio, voice.speaker)
    kept = {f"{u.utt_id}.flac" for us in splits.values() for u in us}
    for path in (part / "audio").iterdir():
        if path.name not in kept:
            path.unlink()

    stamp_path.unlink(missing_ok=True)
    for name in ("audio", *SPLITS):
        shutil.rmtree(data_dir / name, ignore_errors=True)
        os.replace(part / name, data_dir / name)
    part.rmdir()
    stamp = {"options": options, "state": _state(data_dir)}
    temporary = stamp_path.with_suffix(".part")
    temporary.write_text(json.dumps(stamp, indent=1) + "\n")
    os.replace(temporary, stamp_path)
    print(summary(splits))
    print(f"{data_dir}: prepared in {time.monotonic() - begin:.1f} s")
    return True


def _count(value: str) -> int:
    number = int(value)
    if number < 0:
        raise ValueError
    return number


_count.__name__ = "count"  # argparse names the type in its error


def main(argv: list[str] | None = None) -> int:
    """Command line entry; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--source", type=Path, required=True, help="unpacked prompts")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="output")
    parser.add_argument(
        "--max_train_utts", type=_count, default=0, help="keep that many (0: all)"
    )
    parser.add_argument(
        "--max_test_utts",
        type=_count,
        default=0,
        help="keep that many in valid and in test (0: all)",
    )
    args = parser.parse_args(argv)
    try:
        prepare(**vars(args))
    except PrepareError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    except ModuleNotFoundError as e:
        print(f"error: {e}; run the set-up script under tools/", file=sys.stderr)
        return 2
    except OSError as e:
        print(f"error: {e}", file=sys.stderr)
        return 6 if e.errno in (errno.ENOSPC, errno.EDQUOT) else 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
