"""Scores that ESPnet's stage 13 left: where they are, and sclite's counts."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import DataError

STREAMED = "decode_stream"  # directory of what was decoded chunk by chunk
STREAMED_SET = ", streamed"  # behind the name of a set that was decoded so
DECODING = "decoding"  # file that names the decoding which counts


@dataclasses.dataclass(frozen=True)
class Score:
    """Raw counts of one sclite result.

    Attributes:
        num_ref: reference tokens.
        num_err: substitutions + deletions + insertions.
    """

    num_ref: int
    num_err: int

    @property
    def rate(self) -> float:
        """Error rate in percent; of an empty reference 0."""
        return 100.0 * self.num_err / max(1, self.num_ref)


def read_sclite(path: Path) -> Score:
    """Error counts from sclite's `result.txt` (its table of raw counts, row `Sum`).

    Raises:
        DataError: no such file, or no such row in it.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file: has this row been scored (stage 13)?")
    text = path.read_text(encoding="utf-8", errors="replace")
    # | Sum    |   83    429 |  150   200   79   10   289   80 |
    match = re.search(r"^\s*\|\s*Sum\s*\|([\d\s]+)\|([\d\s]+)\|", text, re.M)
    if match is None:
        raise DataError(f"{path}: expected sclite's table with a row 'Sum', found none")
    num_ref = int(match[1].split()[1])
    num_err = int(match[2].split()[4])
    return Score(num_ref, num_err)


def find_score_dirs(asr_exp: Path, model_file: str | None = None) -> dict[str, Path]:
    """Test set -> its directory with `score_wer` and `score_cer`.

    What the streaming decoder gave (`decode_stream`) is a set of its own. Where a set
    was decoded in several ways, the recipe's counts: the one that the file `decoding`
    names, which mtkd.sh writes when it has scored.

    Args:
        asr_exp: directory of stage 2.
        model_file: name of weights: of several decodings those by others do not count.

    Raises:
        DataError: the experiment holds no score; or a set has several, and none of them
            is named, or none by that name: the candidates are listed.
    """
    candidates: dict[str, dict[str, Path]] = {}
    for decoding, dset, folder in list_scores(asr_exp):
        if decoding == STREAMED:
            dset += STREAMED_SET
        candidates.setdefault(dset, {})[decoding] = folder
    if not candidates:
        raise DataError(f"{asr_exp}: no scores in it: run stages 12 and 13 first")
    named = asr_exp / DECODING
    name = named.read_text(encoding="utf-8").strip() if named.is_file() else None
    found = {}
    for dset, folders in candidates.items():
        if model_file is not None:
            ending = f"_asr_model_{Path(model_file).stem}"
            folders = {
                k: v for k, v in folders.items() if k.endswith(ending)
            } or folders
        if len(folders) > 1 and name not in folders:
            raise DataError(
                f"{asr_exp}: '{dset}' was decoded in several ways: "
                f"{', '.join(sorted(folders))}: write the name of the one that counts "
                f"into {named}, or remove the others"
            )
        found[dset] = folders[name] if name in folders else next(iter(folders.values()))
    return found


def list_scores(asr_exp: Path) -> list[tuple[str, str, Path]]:
    """Name of the decoding, test set and directory of all scores of a student.

    ESPnet puts a decoding's arguments into its name, slashes included, and a validation
    set under `org/`.
    """
    folders = [path.parent for path in sorted(asr_exp.rglob("score_wer"))]
    return [
        (decoding_of(asr_exp, folder), folder.name, folder)
        for folder in folders
        if folder.parent != asr_exp
    ]


def decoding_of(asr_exp: Path, folder: Path) -> str:
    """Name of the decoding that a directory with scores belongs to."""
    decoding = folder.parent
    if decoding.name == "org":
        decoding = decoding.parent
    return decoding.relative_to(asr_exp).as_posix()


def same_sets(rows: Sequence[tuple[Path, dict[str, Path]]]) -> list[str]:
    """Test sets of several seeds.

    Args:
        rows: directory of stage 2 and its scores, of each seed.

    Raises:
        DataError: a seed lacks a set that another has.
    """
    sets = dict.fromkeys(dset for _, dirs in rows for dset in dirs)
    for dset in sets:
        lacking = [str(asr_exp) for asr_exp, dirs in rows if dset not in dirs]
        if lacking:
            raise DataError(
                f"{', '.join(lacking)}: no scores of '{dset}', which other seeds of "
                "this row have: decode and score it (stages 12 and 13), or leave the "
                "seed out"
            )
    return list(sets)
