"""What each teacher added: rows with all of them against rows without one."""

import dataclasses
from collections.abc import Sequence

from espnet_mtkd.results.compare import Difference

WITHOUT = "without "  # what the title of a row that leaves a teacher out begins with


@dataclasses.dataclass(frozen=True)
class Added:
    """By how many points of WER a row is better than the same without a teacher.

    Attributes:
        title: teacher and test set; the student too, where there are several.
        points, interval: see `results.compare.Difference`.
    """

    title: str
    points: float
    interval: tuple[float, float] | None


def what_teachers_added(found: Sequence[tuple[str, str, Difference]]) -> list[Added]:
    """Of all comparisons those in which one of the two rows leaves a teacher out.

    Args:
        found: of `results.compare.compare_pairs`; either row may come first.
    """
    left_out = [x for x in found if _leaves_out(x[0]) != _leaves_out(x[1])]
    students = {name.rpartition(": ")[0] for name, _, _ in left_out}
    added = []
    for name, other, x in left_out:
        points, interval = x.points, x.interval
        if _leaves_out(name):  # asked whether the row without it is better
            name, other, points = other, name, -points
            interval = interval and (-interval[1], -interval[0])
        student, _, what = other.rpartition(": ")
        title = f"{what.removeprefix(WITHOUT)}, {x.dset}"
        if len(students) > 1:
            title = f"{student}: {title}"
        added.append(Added(title, points, interval))
    return added


def _leaves_out(name: str) -> bool:
    return name.rpartition(": ")[2].startswith(WITHOUT)
