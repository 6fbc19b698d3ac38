"""Whether one row is better than another: paired bootstrap over speakers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet_mtkd.errors import DataError
from espnet_mtkd.results.intervals import bootstrap, counts_by_unit
from espnet_mtkd.results.scores import find_score_dirs, same_sets
from espnet_mtkd.results.tables import table


@dataclasses.dataclass(frozen=True)
class Difference:
    """By how much a row is better than another on a test set.

    Attributes:
        dset: the test set.
        points: WER of the other minus WER of the row, in percentage points; means over
            the seeds.
        interval: 95 %, over speakers; None for fewer than two.
        p: of two sides, that there is no difference; None likewise.
        by_seed: the same difference of each seed; empty where their numbers differ.
        drawn: what was drawn.
    """

    dset: str
    points: float
    interval: tuple[float, float] | None
    p: float | None
    by_seed: tuple[float, ...]
    drawn: str


def compare(row: Sequence[Path], other: Sequence[Path]) -> list[Difference]:
    """Compare two rows on each test set that both have.

    Speakers are drawn with replacement, the same for both rows (the paired test of
    Bisani and Ney, ICASSP 2004; by speaker, as their errors are alike). Errors of
    several seeds are averaged for each utterance before: a draw has all seeds of its
    speakers. So the interval is about speakers, given these seeds.

    Args:
        row, other: directories of stage 2, one for each seed.

    Raises:
        DataError: no scores, no set in common, or other utterances or references.
    """
    found = _compare(row, other)
    if not found:
        raise DataError(
            f"{row[0]} and {other[0]}: no test set in common: "
            f"{', '.join(find_score_dirs(row[0]))}; "
            f"{', '.join(find_score_dirs(other[0]))}: decode both on one (stages 12 "
            "and 13)"
        )
    return found


def _compare(row: Sequence[Path], other: Sequence[Path]) -> list[Difference]:
    groups = [[find_score_dirs(asr_exp) for asr_exp in exps] for exps in (row, other)]
    sets = [
        same_sets(list(zip(exps, seeds, strict=True)))
        for exps, seeds in zip((row, other), groups, strict=True)
    ]
    return [_difference(groups, dset) for dset in sets[0] if dset in sets[1]]


def _difference(groups, dset: str) -> Difference:
    num_ref, (row, other), drawn = counts_by_unit(groups, dset)
    better = other.mean(0) - row.mean(0)  # (S,)
    total = max(1, num_ref.sum())
    by_seed: tuple[float, ...] = ()
    if len(row) == len(other) > 1:
        by_seed = tuple(float(x) for x in 100 * (other - row).sum(1) / total)
    result = bootstrap(lambda d, n: 100 * d / n, better, num_ref)
    interval = p = None
    if result is not None and np.isfinite(result[1]).all():
        interval, draws = result
        tail = min((draws <= 0).sum(), (draws >= 0).sum())
        p = min(1.0, 2 * (tail + 1) / (len(draws) + 1))  # never 0 by draws alone
    points = float(100 * better.sum() / total)
    return Difference(dset, points, interval, p, by_seed, drawn)


def cells(found: Difference) -> list[str]:
    """A difference in words: points, interval, p, seed by seed, what was drawn."""
    interval = p = ""
    if found.interval is not None:
        interval = " to ".join(map(_number, found.interval))
        p = f"{found.p:.3f}" if found.p >= 0.001 else "< 0.001"
    seeds = ", ".join(map(_number, found.by_seed))
    return [_number(found.points), interval, p, seeds, found.drawn]


def _number(points: float) -> str:
    return f"{round(points, 1) + 0.0:.1f}"  # (no "-0.0")


def pairs_table(
    rows: Sequence[tuple[str, Path]], pairs: Sequence[tuple[str, str]]
) -> str:
    """Markdown table of comparisons.

    Args:
        rows: (name, directory of stage 2), the seeds of a row under one name; see
            `report.results_table`.
        pairs: names; the first is asked to be better than the second.

    Returns:
        One line per pair and test set that both have.
    """
    lines = []
    for name, other, found in compare_pairs(rows, pairs):
        student, _, what = name.rpartition(": ")
        other_student, _, other_what = other.rpartition(": ")
        if other_student != student:
            other_what = other
        lines.append([student, what, other_what, found.dset, *cells(found)])
    columns = ["student", "row", "better than", "set", "by / points:", "interval:"]
    return table([*columns, "p:", "seed by seed", "drawn"], lines)


def compare_pairs(
    rows: Sequence[tuple[str, Path]], pairs: Sequence[tuple[str, str]]
) -> list[tuple[str, str, Difference]]:
    """The two names, and the difference, of each pair on each set that both have.

    Args:
        rows, pairs: see `pairs_table`.
    """
    exps: dict[str, list[Path]] = {}
    for name, asr_exp in rows:
        exps.setdefault(name, []).append(asr_exp)
    return [
        (name, other, found)
        for name, other in pairs
        for found in _compare(exps[name], exps[other])
    ]
