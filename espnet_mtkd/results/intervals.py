"""How sure the error rates of RESULTS.md are, and what the rows cost."""

import re
from pathlib import Path

import numpy as np

from espnet_mtkd.errors import DataError
from espnet_mtkd.results.report import find_score_dirs, read_sclite, same_sets

CONFIDENCE = 0.95
NUM_RESAMPLES = 9999


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


def bootstrap_interval(statistic, *samples) -> tuple[float, float] | None:
    """Percentile bootstrap over utterances (Bisani and Ney, ICASSP 2004).

    Args:
        statistic: of sums over the utterances drawn, one for each sample.
        samples: (U,) each, drawn together.

    Returns:
        Ends of the 95 % interval; None for fewer than two utterances.
    """
    from scipy.stats import bootstrap

    if len(samples[0]) < 2:
        return None
    result = bootstrap(
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
    return tuple(float(x) for x in result.confidence_interval)


def intervals_table(rows: list[tuple[str, Path]]) -> str:
    """Markdown table of 95 % intervals of WER and of its relative reduction.

    Args:
        rows: as of `report.results_table`. Errors of several seeds are averaged for
            each utterance, so the interval is about utterances, not about seeds.

    Returns:
        One line per name and test set; reductions are against the encoder's first name.

    Raises:
        DataError: two rows were scored on different utterances.
    """
    lines = ["| student | row | set | WER / % | WERR / % |", "|---|---|---|---:|---:|"]
    baselines = {}
    for name in dict.fromkeys(name for name, _ in rows):
        student, _, what = name.rpartition(": ")
        exps = [asr_exp for n, asr_exp in rows if n == name]
        seeds = [find_score_dirs(asr_exp) for asr_exp in exps]
        for dset in same_sets(list(zip(exps, seeds, strict=True))):
            paths = [dirs[dset] / "score_wer" / "result.txt" for dirs in seeds]
            counts = [read_utterances(path) for path in paths]
            first = baselines.setdefault((student, dset), (name, counts, paths[0]))
            for other, path in [
                (first[1][0], first[2]),
                *zip(counts, paths, strict=True),
            ]:
                if other.keys() != counts[0].keys():
                    raise DataError(f"{path} and {paths[0]}: not the same utterances")
            utts = sorted(counts[0])
            num_ref = np.array([counts[0][u][0] for u in utts], float)
            num_err, base = (
                np.mean([[c[u][1] for u in utts] for c in group], 0)
                for group in (counts, first[1])
            )
            cells = [student, what, dset]
            cells.append(_cell(lambda e, n: 100 * e / n, num_err, num_ref))
            is_baseline = first[0] == name
            cells.append(
                ""
                if is_baseline
                else _cell(lambda e, b: 100 * (1 - e / b), num_err, base)
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(statistic, *samples) -> str:
    with np.errstate(divide="ignore", invalid="ignore"):
        interval = bootstrap_interval(statistic, *samples)
    if interval is None or not np.isfinite(interval).all():
        return ""  # too few utterances; or draws in which the baseline has no errors
    return f"{interval[0]:.1f} to {interval[1]:.1f}"


def cost_table(rows: list[tuple[str, Path]]) -> str:
    """Markdown table of parameters and real-time factors, from the logs of the stages.

    Returns:
        One line per row of which anything is known: millions of parameters as ESPnet
        counted them, RTF of ESPnet's offline search, RTF of the streaming decoder.
    """
    lines = [
        "| student | row | parameters / M | RTF, offline | RTF, streamed |",
        "|---|---|---:|---:|---:|",
    ]
    sources = (
        ("train.log", r"Number of model parameters: ([\d.]+) M"),
        ("*/*/logdir/calculate_rtf.log", r"^RTF: ([\d.]+)"),
        ("decode_stream/*/stream.log", r"^RTF: ([\d.]+)"),
    )
    for name, asr_exp in rows:
        student, _, what = name.rpartition(": ")
        cells = [student, what]
        for pattern, expression in sources:
            found = [
                float(match)
                for path in sorted(asr_exp.glob(pattern))
                for match in re.findall(
                    expression, path.read_text(errors="replace"), re.M
                )[-1:]
            ]
            digits = 2 if pattern == "train.log" else 3
            cells.append(f"{np.mean(found):.{digits}f}" if found else "")
        if any(cells[2:]):
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
