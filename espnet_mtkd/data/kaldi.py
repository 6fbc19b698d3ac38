"""Files of Kaldi data directories, and what is wrong with them."""

from pathlib import Path

from espnet_mtkd.errors import DataError


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


def read_lines(path: Path, expected: str) -> dict[str, str]:
    """Utterance id -> the rest of its line, of a Kaldi `text` or the like.

    Args:
        path: of the file.
        expected: for the message, what it should be.

    Raises:
        DataError: no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: expected {expected}")
    lines = (line.partition(" ") for line in path.read_text("utf-8").splitlines())
    return {utt: rest.strip() for utt, _, rest in lines}


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
