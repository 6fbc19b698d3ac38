"""Time and disk of each stage, from stage_times.tsv and the folders it names."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from espnet_mtkd.results.report import read_times


@dataclasses.dataclass(frozen=True)
class Stage:
    """A stage that did something.

    Attributes:
        row: of which it was.
        number: of the stage.
        what: it did.
        seconds: wall time.
        output: folder that it made, or "".
        num_bytes: what that takes now; None: it is not there, or a line above has it.
    """

    row: str
    number: str
    what: str
    seconds: int
    output: str
    num_bytes: int | None


def read_stages(tsv: Path, titles: Mapping[str, str]) -> list[Stage]:
    """Stages of some rows, in the order in which they ran.

    Args:
        tsv: `stage_times.tsv`.
        titles: name of the directory of stage 2 -> what the row is called.

    Raises:
        DataError: a line of another form.
    """
    stages, seen = [], set()
    for row, number, title, seconds in read_times(tsv):
        if row not in titles:
            continue
        what, _, output = title.partition(" -> ")
        # Of the recipe's directory: here, or above --expdir.
        roots = (tsv.parent.absolute().parent, Path.cwd())
        path = next((r / output for r in roots if (r / output).is_dir()), None)
        num_bytes = None
        if output and output not in seen and path:
            seen.add(output)
            num_bytes = disk_of(path)
        what = what.split(":")[0]
        stages.append(Stage(titles[row], number, what, seconds, output, num_bytes))
    return stages


def disk_of(path: Path) -> int:
    """Bytes of all files in a folder; links are not followed."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # a training that runs has removed it
                continue
    return total
