"""How trainings went: validation curves, and where each target's loss ended."""

import dataclasses
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from espnet_mtkd.results.report import pretraining_of, read_curves

TARGET = re.compile(r"(loss|cosine)_(.+)_l(\d+)$")  # of a teacher's layer


@dataclasses.dataclass(frozen=True)
class Curve:
    """One line: the training, and a value for each epoch."""

    run: str
    epochs: list[int]
    values: list[float]


@dataclasses.dataclass(frozen=True)
class Trainings:
    """Validation curves of all trainings.

    Attributes:
        cosine, loss: of stage 1: "<teacher>, layer <n>" -> a curve for each training.
        stage_1, stage_2: total losses.
        without: names of the trainings that left no tensorboard files.
    """

    cosine: dict[str, list[Curve]]
    loss: dict[str, list[Curve]]
    stage_1: list[Curve]
    stage_2: list[Curve]
    without: list[str]


def read_trainings(rows: Sequence[tuple[str, Path]]) -> Trainings:
    """Curves of students and of the stages 1 that they come from, each once.

    A stage 1 has the title of the first row that comes from it.

    Args:
        rows: title and directory of stage 2.

    Raises:
        ConfigError: a damaged config.
    """
    first: dict[Path, str] = {}
    for title, asr_exp in rows:
        folder = pretraining_of(asr_exp)
        if folder and folder.is_dir():
            first.setdefault(folder, title)
    stage_1 = [(title, folder) for folder, title in first.items()]
    found = Trainings({}, {}, [], [], [])
    for runs, total in ((stage_1, found.stage_1), (rows, found.stage_2)):
        for title, run in runs:
            curves = _finite(read_curves(run, "valid"), title)
            if "loss" not in curves:
                found.without.append(run.name)
                continue
            total.append(curves["loss"])
            if runs is not stage_1:
                continue
            for tag, curve in curves.items():
                match = TARGET.match(tag)
                if match:
                    group = found.cosine if match[1] == "cosine" else found.loss
                    group.setdefault(target_name(match), []).append(curve)
    return found


def target_name(match: re.Match) -> str:
    """Words for a teacher's layer, from a name of tensorboard's."""
    return f"{match[2]}, layer {match[3]}"


def _finite(curves: dict, run: str) -> dict[str, Curve]:
    """Curves without the epochs whose value is no number (a WER that was not asked)."""
    found = {}
    for tag, (epochs, values) in curves.items():
        points = [x for x in zip(epochs, values, strict=True) if math.isfinite(x[1])]
        if points:
            found[tag] = Curve(run, [x[0] for x in points], [x[1] for x in points])
    return found


@dataclasses.dataclass(frozen=True)
class Heat:
    """A table whose cells are coloured: lines are teachers' layers, columns trainings.

    Attributes:
        runs: titles of the columns.
        lines: teacher, layer, and for each run a value with its shade of 0 to 1, or
            None.
    """

    runs: list[str]
    lines: list[tuple[str, str, list[tuple[float, float] | None]]]


def heat(found: dict[str, list[Curve]], titles: Sequence[str]) -> Heat:
    """The last validation value of each target in each training.

    Args:
        found: "<teacher>, layer <n>" -> curves.
        titles: of all rows, in their order.
    """
    shown = {x.run for lines in found.values() for x in lines}
    runs = [title for title in titles if title in shown]
    values = [x.values[-1] for lines in found.values() for x in lines]
    low, span = min(values), max(values) - min(values)
    lines = []
    for name in sorted(found, key=_order(found)):
        last = {x.run: x.values[-1] for x in found[name]}
        teacher, _, layer = name.rpartition(", layer ")
        cells = [
            None
            if run not in last
            else (last[run], (last[run] - low) / span if span else 0.5)
            for run in runs
        ]
        lines.append((teacher, layer, cells))
    return Heat(runs, lines)


def _order(names: Iterable[str]):
    """Teachers as they come first, their layers by number."""
    teachers = list(dict.fromkeys(x.rpartition(", layer ")[0] for x in names))

    def key(name: str):
        teacher, _, layer = name.rpartition(", layer ")
        return teachers.index(teacher), int(layer)

    return key
