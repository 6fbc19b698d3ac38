"""What rows are called on a page."""

import os
import re
from collections.abc import Sequence
from pathlib import Path


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Name -> what is shown: without its student where all have the same one."""
    students = {name.rpartition(": ")[0] for name in names}
    if len(students) > 1:
        return {name: name for name in names}
    return {name: name.rpartition(": ")[2] for name in names}


def run_titles(rows: Sequence[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """A title of its own for each directory of stage 2: seeds have theirs behind."""
    short = short_names([name for name, _ in rows])
    names = [short[name] for name, _ in rows]
    titles = names
    for mark in (_seed, lambda folder: folder.name, str):  # the first that tells apart
        if len(set(titles)) == len(titles):
            break
        titles = [
            name if names.count(name) == 1 else f"{name} ({mark(folder)})"
            for name, (_, folder) in zip(names, rows, strict=True)
        ]
    return [(title, row[1]) for title, row in zip(titles, rows, strict=True)]


def _seed(folder: Path) -> str:
    """As ladder.sh names its folders."""
    match = re.search(r"_seed(\d+)$", folder.name)
    return f"seed {match[1] if match else 0}"


def title_of(expdir: Path) -> str:
    """The recipe's name: what stands above `mtkd1`, else the folder of `expdir`."""
    folders = Path(os.path.abspath(expdir)).parents  # (a link keeps its own name)
    for folder in folders:
        if re.fullmatch(r"mtkd\d+", folder.name):
            return folder.parent.name
    return folders[0].name
