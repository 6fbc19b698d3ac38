"""How sure the error rates of RESULTS.md are, and what the rows cost."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from espnet_mtkd.errors import DataError
from espnet_mtkd.results.report import Row, grouped_rows
from espnet_mtkd.results.scores import (
    STREAMED,
    decoding_of,
    find_score_dirs,
    read_sclite,
)
from espnet_mtkd.results.speakers import find_speakers
from espnet_mtkd.results.tables import table

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999
LEAST_SPEAKERS = 5  # fewer are not drawn
ENOUGH_SPEAKERS = 15  # fewer are marked


def read_utterances(path: Path) -> dict[str, tuple[int, int]]:
    """Utterance -> (reference tokens, errors), from sclite's `result.txt`.

    Raises:
        DataError: no alignments in the file, or not those of its table of counts.
    """
    total = read_sclite(path)
    text = path.read_text(encoding="utf-8", errors="replace")
    pattern = r"^id: \((.*)\)\s*\nScores: \(#C #S #D #I\) (\d+) (\d+) (\d+) (\d+)"
    counts = {}
    for utt, *scores in re.findall(pattern, text, re.M):
        right, substituted, deleted, inserted = map(int, scores)
        counts[utt] = (right + substituted + deleted, substituted + deleted + inserted)
    sums = tuple(map(sum, zip(*counts.values(), strict=True))) if counts else (0, 0)
    if sums != (total.num_ref, total.num_err):
        raise DataError(
            f"{path}: expected alignments of {total.num_ref} tokens with "
            f"{total.num_err} errors, as its table says, found {sums[0]} with {sums[1]}"
        )
    return counts


def bootstrap(statistic, *samples):
    """Percentile bootstrap (Bisani and Ney, ICASSP 2004).

    Args:
        statistic: of sums over the units drawn, one for each sample.
        samples: (S,) each, drawn together: of S speakers, or of S utterances.

    Returns:
        Ends of the 95 % interval, and the statistic of each draw (`NUM_RESAMPLES`,);
        None for fewer than two units.
    """
    from scipy import stats

    if len(samples[0]) < 2:
        return None
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is not finite; callers look at it
        result = stats.bootstrap(
            samples,
            lambda *drawn, axis: statistic(*(x.sum(axis) for x in drawn)),
            paired=True,
            vectorized=True,
            batch=500,
            n_resamples=NUM_RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    interval = tuple(float(x) for x in result.confidence_interval)
    return interval, result.bootstrap_distribution


def bootstrap_interval(statistic, *samples) -> tuple[float, float] | None:
    """The ends of the interval alone; see `bootstrap`."""
    result = bootstrap(statistic, *samples)
    return None if result is None else result[0]


def choose_units(speakers: Sequence[str] | None, num_utts: int) -> tuple[list, str]:
    """What is drawn: speakers, whose utterances are alike, or utterances.

    A bootstrap over few speakers knows too little of how they differ, and its interval
    is too narrow: somewhat below `ENOUGH_SPEAKERS`, far below `LEAST_SPEAKERS`. There
    utterances are drawn, which says nothing of other speakers.

    Args:
        speakers: (U,) of the utterances; None: not known.
        num_utts: U.

    Returns:
        The unit (U,) that each utterance belongs to, and words for the table.
    """
    by_utterance = list(range(num_utts))
    if speakers is None:
        return by_utterance, "by utterance: speakers unknown"
    num = len(set(speakers))
    if num == num_utts:
        return by_utterance, f"by utterance, {num} utterances of as many speakers"
    if num == 1:
        return by_utterance, "by utterance: one speaker, holds for that one alone"
    if num < LEAST_SPEAKERS:
        return by_utterance, f"by utterance: {num} speakers, holds for these alone"
    few = ": few, so too narrow" if num < ENOUGH_SPEAKERS else ""
    return list(speakers), f"by speaker, {num} speakers{few}"


Interval = tuple[float, float] | None
Seeds = list[dict[str, Path]]  # of each seed: test set -> directory of its scores


def counts_by_unit(
    groups: Sequence[Seeds], dset: str
) -> tuple[np.ndarray, list[np.ndarray], str]:
    """Word counts of a test set for rows that are compared, by what is drawn.

    Args:
        groups: the seeds of each row.
        dset: test set.

    Returns:
        num_ref: (S,) reference words of each of S speakers (or utterances).
        errors: (seeds, S) of each row.
        words: how S were chosen, for a table.

    Raises:
        DataError: scores on different utterances or references.
    """
    paths = [[x[dset] / "score_wer/result.txt" for x in seeds] for seeds in groups]
    counts = [[read_utterances(path) for path in row] for row in paths]
    _check_same_references(sum(counts, []), sum(paths, []))
    utts = sorted(counts[0][0])
    speakers = find_speakers(utts, groups[0][0][dset])
    units, words = choose_units(
        None if speakers is None else [speakers[u] for u in utts], len(utts)
    )
    num_ref = _sum_by_unit([counts[0][0][u][0] for u in utts], units)
    errors = [
        np.stack([_sum_by_unit([c[u][1] for u in utts], units) for c in row])
        for row in counts
    ]
    return num_ref, errors, words


def _check_same_references(counts: list[dict], paths: list[Path]) -> None:
    """Refuse scores against other utterances, or other words, than the first's."""
    expected = {utt: num_ref for utt, (num_ref, _) in counts[0].items()}
    for other, path in zip(counts[1:], paths[1:], strict=True):
        if other.keys() != expected.keys():
            raise DataError(f"{path} and {paths[0]}: not the same utterances")
        found = {utt: num_ref for utt, (num_ref, _) in other.items()}
        for utt, num_ref in expected.items():
            if found[utt] != num_ref:
                raise DataError(
                    f"{path}: {utt}: expected {num_ref} reference words, as in "
                    f"{paths[0]}, found {found[utt]}: score both against one "
                    "reference (stage 13)"
                )


def intervals_table(rows: list[tuple[str, Path]]) -> str:
    """Markdown table of 95 % intervals of WER and of its relative reduction.

    Args:
        rows: as of `report.results_table`. Errors of several seeds are averaged for
            each utterance, so the interval is about speakers and utterances, not about
            seeds.

    Returns:
        One line per name and test set, with what was drawn; reductions are against the
        encoder's first name.

    Raises:
        DataError: two rows were scored on different utterances or references.
    """
    lines = []
    for row in grouped_rows(rows):
        *found, words = row_intervals(row)
        cells = ["" if x is None else f"{x[0]:.1f} to {x[1]:.1f}" for x in found]
        lines.append([row.student, row.what, row.dset, *cells, words])
    return table(["student", "row", "set", "WER / %:", "WERR / %:", "drawn"], lines)


def row_intervals(row: Row) -> tuple[Interval, Interval, str]:
    """95 % intervals of a row's WER and of its reduction, in percent, and what was
    drawn.

    An interval is None where there is none: no baseline, no errors (all draws are
    alike), one unit, or draws in which the baseline has no errors.
    """
    groups = [row.seeds] if row.baseline is None else [row.seeds, row.baseline]
    num_ref, errors, words = counts_by_unit(groups, row.dset)
    num_err, *base_err = (x.mean(0) for x in errors)
    rate = _interval(lambda e, n: 100 * e / n, num_err, num_ref)
    reduced = None
    if base_err:
        reduced = _interval(lambda e, b: 100 * (1 - e / b), num_err, *base_err)
    return rate, reduced, words


def _interval(statistic, *samples) -> Interval:
    if not samples[0].any():
        return None
    interval = bootstrap_interval(statistic, *samples)
    return interval if interval and np.isfinite(interval).all() else None


def _sum_by_unit(values: Sequence[float], units: Sequence) -> np.ndarray:
    """Sums (S,) over the utterances (U,) of each unit."""
    _, index = np.unique(units, return_inverse=True)
    return np.bincount(index, values)


def cost_table(rows: list[tuple[str, Path]]) -> str:
    """Markdown table of parameters and real-time factors, from the logs of the stages.

    Returns:
        One line per row of which anything is known: millions of parameters as ESPnet
        counted them, RTF of ESPnet's offline search, RTF of the streaming decoder, both
        of the decodings that the table of error rates has.
    """
    lines = []
    for name, asr_exp in rows:
        student, _, what = name.rpartition(": ")
        found = zip(costs(asr_exp), (2, 3, 3), strict=True)
        cells = ["" if x is None else f"{x:.{digits}f}" for x, digits in found]
        if any(cells):
            lines.append([student, what, *cells])
    columns = ["student", "row", "parameters / M:", "RTF, offline:", "RTF, streamed:"]
    return table(columns, lines)


def costs(asr_exp: Path) -> tuple[float | None, float | None, float | None]:
    """Millions of parameters of what is saved, RTF of offline and of streaming
    decoding, of one student; None: not known."""
    offline, streamed = [], []
    for folder in find_score_dirs(asr_exp).values():
        if decoding_of(asr_exp, folder) == STREAMED:
            streamed.append(folder / "stream.log")
        else:
            offline.append(folder / "logdir/calculate_rtf.log")
    log = [asr_exp / "train.log"]
    size = _mean_of(log, r"Number of model parameters: ([\d.]+) M")
    heads = _mean_of(log, r"heads that are dropped at saving: (\d+) parameters")
    return (
        None if size is None else size - (heads or 0) / 1e6,
        _mean_of(offline, r"^RTF: ([\d.]+)"),
        _mean_of(streamed, r"^RTF: ([\d.]+)"),
    )


def _mean_of(logs: Sequence[Path], expression: str) -> float | None:
    """Mean of the last match in each log; None where there is none."""
    found = [
        float(match)
        for path in logs
        if path.is_file()
        for match in re.findall(expression, path.read_text(errors="replace"), re.M)[-1:]
    ]
    return float(np.mean(found)) if found else None
