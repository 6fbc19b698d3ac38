"""What each teacher added: rows with all of them against rows without one."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from espnet_mtkd.files import read_yaml
from espnet_mtkd.results.compare import Difference
from espnet_mtkd.results.report import pretraining_of


@dataclasses.dataclass(frozen=True)
class Added:
    """By how many points of WER a row is better than the same without a teacher.

    Attributes:
        title: teacher and test set; row and student too, where there are several.
        points, interval: see `results.compare.Difference`.
    """

    title: str
    points: float
    interval: tuple[float, float] | None


def what_teachers_added(
    found: Sequence[tuple[str, str, Difference]], teachers: Mapping[str, set[str]]
) -> list[Added]:
    """Of all comparisons those of a row with the same less one teacher.

    Args:
        found: of `results.compare.compare_pairs`; either row may come first.
        teachers: name of each row -> its teachers' names.
    """
    pairs = []
    for name, other, x in found:
        points, interval = x.points, x.interval
        if len(teachers[name]) < len(teachers[other]):  # it was asked the other way
            name, other, points = other, name, -points
            interval = interval and (-interval[1], -interval[0])
        left_out = teachers[name] - teachers[other]
        if len(left_out) == 1 and teachers[other] and teachers[other] < teachers[name]:
            pairs.append((name, *left_out, x.dset, points, interval))
    with_all = {name.rpartition(": ") for name, *_ in pairs}
    added = []
    for name, teacher, dset, points, interval in pairs:
        student, _, what = name.rpartition(": ")
        title = f"{teacher}, {dset}"
        if len({x[2] for x in with_all}) > 1:
            title += f", in {what}"
        if len({x[0] for x in with_all}) > 1:
            title = f"{student}: {title}"
        added.append(Added(title, points, interval))
    return added


def teachers_of(rows: Sequence[tuple[str, Path]]) -> dict[str, set[str]]:
    """Names of the teachers of each row, by the config of its stage 1.

    Args:
        rows: name and directory of stage 2.

    Raises:
        ConfigError: a damaged config.
    """
    found: dict[str, set[str]] = {}
    for name, asr_exp in rows:
        folder = pretraining_of(asr_exp)
        config = folder / "config.yaml" if folder else None
        teachers = (
            read_yaml(config).get("teachers") if config and config.is_file() else []
        )
        found.setdefault(name, set()).update(
            x["name"] for x in teachers or [] if isinstance(x, dict) and "name" in x
        )
    return found
