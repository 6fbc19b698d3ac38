"""Which speaker each scored utterance is of.

asr.sh's stage 13 writes `(<speaker>-<utterance>)` behind each line for sclite, from
`utt2spk`, and sclite puts it in small letters. So the ids of the scores say who spoke;
files are needed only to see where such an id is to be cut.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from espnet_mtkd.results.commands import argument, decoding_arguments


def data_dirs(folder: Path, dset: str) -> Iterator[Path]:
    """Directories that may hold the data of a decoded set, the surest first.

    Args:
        folder: of one decoding and test set, in `<recipe>/<expdir>/<experiment>/`.
        dset: name of the set.
    """
    yield folder
    arguments = decoding_arguments(folder)
    inputs = argument(arguments, "wav_scp")
    inputs = inputs or argument(arguments, "data_path_and_name_and_type")
    roots = [Path.cwd(), *folder.absolute().parents[:6]]
    for root in roots:
        if inputs:
            yield (root / inputs.partition(",")[0]).parent
        yield from (root / x / dset for x in ("dump/raw", "dump/raw/org", "data"))


def find_speakers(ids: Collection[str], folder: Path) -> dict[str, str] | None:
    """Speaker of each utterance of a scored set.

    Args:
        ids: of sclite's `result.txt`: `<speaker>-<utterance>` in small letters.
        folder: with the scores of one decoding and test set.

    Returns:
        id -> speaker; None where it is not known of all.
    """
    for data_dir in dict.fromkeys(data_dirs(folder, folder.name)):
        speakers = _read_utt2spk(data_dir / "utt2spk")
        if speakers.keys() >= set(ids):
            return {x: speakers[x] for x in ids}
    return _cut(ids, _utterances(folder / "text"))


def _read_utt2spk(path: Path) -> dict[str, str]:
    """`<speaker>-<utterance>` in small letters -> speaker; empty without the file."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines)
    return {
        f"{x[1].strip()}-{x[0]}".lower(): x[1].strip().lower()
        for x in pairs
        if len(x) == 2
    }


def _utterances(text: Path) -> set[str]:
    """Ids in a file of hypotheses, in small letters."""
    if not text.is_file():
        return set()
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    return {line.split(maxsplit=1)[0].lower() for line in lines if line.strip()}


def _cut(ids: Collection[str], utterances: set[str]) -> dict[str, str] | None:
    """Cut each id at the one '-' behind which an utterance's id stands."""
    speakers = {}
    for name in ids:
        dashes = [i for i, letter in enumerate(name) if letter == "-"]
        if len(dashes) > 1 or utterances:
            dashes = [i for i in dashes if name[i + 1 :] in utterances]
        if len(dashes) != 1:
            return None
        speakers[name] = name[: dashes[0]]
    return speakers
