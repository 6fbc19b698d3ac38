"""Files of Kaldi data directories, and what is wrong with them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from espnet_mtkd.errors import DataError
from espnet_mtkd.files import to_utf8

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_lines(path: Path, expected: str) -> dict[str, str]:
    """Utterance id -> the rest of its line, of a Kaldi `text` or the like.

    Spaces or tabs part the id from the rest, as in Kaldi; the rest may be empty.

    Args:
        path: of the file.
        expected: for the message, what it should be.

    Raises:
        DataError: no such file, an id twice, or text that Kaldi's and ESPnet's tools
            would misread: no UTF-8, a byte order mark, lines that end in CR.
    """
    return {utt: rest for _, utt, rest in numbered_lines(path, expected)}


def numbered_lines(path: Path, expected: str) -> Iterator[tuple[int, str, str]]:
    """Line number, id and rest of each line; see `read_lines`."""
    if not path.is_file():
        raise DataError(f"{path}: no such file: expected {expected}")
    content = path.read_bytes()
    quoted = shlex.quote(str(path))
    if content.startswith(BYTE_ORDER_MARK):
        raise DataError(
            f"{path}:1: begins with a byte order mark, which would become part of the "
            rf"first id: take it out: sed -i '1s/^\xEF\xBB\xBF//' {quoted}"
        )
    seen: dict[str, int] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.endswith(b"\r"):
            raise DataError(
                f"{path}:{number}: ends in CR, as on Windows: expected LF alone: "
                rf"sed -i 's/\r$//' {quoted}"
            )
        if b"\r" in line or b"\0" in line:
            raise DataError(
                f"{path}:{number}: has a CR, which ESPnet takes for a line's end, or a "
                rf"zero byte: take them out: sed -i 's/[\r\x00]//g' {quoted}"
            )
        try:
            words = line.decode("utf-8").split(maxsplit=1)
        except UnicodeDecodeError as e:
            raise DataError(
                f"{path}:{number}: not UTF-8 ({e.reason} at byte {e.start}): "
                f"'{line[:60].decode('latin-1')}': convert it, if it is Latin-1: "
                f"{to_utf8(path)}"
            ) from e
        if not words:
            continue
        utt, rest = words[0], words[1].rstrip() if len(words) > 1 else ""
        if utt in seen:
            raise DataError(
                f"{path}:{number}: utterance {utt} stands here twice (line {seen[utt]})"
            )
        seen[utt] = number
        yield number, utt, rest


def read_wav_scp(path: Path) -> dict[str, str]:
    """Utterance id -> audio file of a Kaldi `wav.scp` without pipes.

    Raises:
        DataError: see `read_lines`; an empty file; a pipe; or `segments` beside it, by
            which its recordings would have to be cut.
    """
    refuse_segments(path)
    entries = {}
    for number, utt, audio in numbered_lines(path, "a Kaldi wav.scp"):
        if not audio or audio.endswith("|"):
            raise DataError(
                f"{path}:{number}: expected '<utterance> <audio file>', found "
                f"'{utt} {audio[:80]}': let asr.sh stage 3 write audio files "
                "(--feats_type raw --audio_format flac)"
            )
        entries[utt] = audio
    if not entries:
        raise DataError(f"{path}: empty: expected at least one utterance")
    return entries


def refuse_segments(wav_scp: Path) -> None:
    """Refuse a directory whose utterances are parts of its recordings.

    Raises:
        DataError: there is a `segments`.
    """
    segments = wav_scp.with_name("segments")
    if segments.is_file():
        raise DataError(
            f"{segments}: the utterances of this directory are parts of its recordings:"
            " let stage 3 of mtkd.sh (or asr.sh) write each as a file of its own, and "
            f"give its result, dump/raw/<set>, or: scripts/audio/format_wav_scp.sh "
            f"--audio-format flac --fs 16k --segments {segments} {wav_scp} <new "
            "directory>"
        )


def read_lengths(shape_file: Path) -> dict[str, int]:
    """Utterance -> samples, of a file that `check_data_dir` wrote.

    Raises:
        DataError: a line of another form.
    """
    lengths = {}
    for number, utt, num in numbered_lines(shape_file, "'<utterance> <samples>' lines"):
        samples = to_samples(num)
        if samples is None:
            raise DataError(
                f"{shape_file}:{number}: expected '<utterance> <samples>', found "
                f"'{utt} {num}'"[:300]
            )
        lengths[utt] = samples
    return lengths


def to_samples(text: str) -> int | None:
    """A number of samples; None where the text is none, or one of no recording."""
    return int(text) if re.fullmatch("[0-9]{1,15}", text) else None
