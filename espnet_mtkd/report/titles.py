"""What rows are called on a page."""

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
    names = [name for name, _ in rows]
    short = short_names(names)
    return [
        (
            short[name] if names.count(name) == 1 else f"{short[name]} ({folder.name})",
            folder,
        )
        for name, folder in rows
    ]
