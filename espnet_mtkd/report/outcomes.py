"""What each row reached: error rates, intervals and costs, as numbers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.results.intervals import Interval, costs, row_intervals
from espnet_mtkd.results.report import grouped_rows, mean_rate, reduction
from espnet_mtkd.results.scores import STREAMED_SET, read_sclite


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A row on a test set; rates are percentages, means over the seeds.

    Attributes:
        student, what: the name "<student>: <what>".
        dset: test set, without `, streamed`.
        streamed: whether it was decoded chunk by chunk.
        num_seeds: trainings behind the means.
        words: of the references.
        wer, cer: error rates.
        werr, cerr: relative reductions against the student's first row, or None.
        wer_interval, werr_interval: 95 %, or None.
        is_first: whether it is the student's first row, the measure of the others.
        baseline: what that row is called; None for itself, and where it lacks the set.
        drawn: what the intervals are over.
        parameters: millions, or None.
        rtf: real-time factor of this kind of decoding, or None.
    """

    student: str
    what: str
    dset: str
    streamed: bool
    num_seeds: int
    words: int
    wer: float
    cer: float
    werr: float | None
    cerr: float | None
    wer_interval: Interval
    werr_interval: Interval
    is_first: bool
    baseline: str | None
    drawn: str
    parameters: float | None
    rtf: float | None

    @property
    def label(self) -> str:
        """For a chart's line: what it is, and how it was decoded."""
        return self.what + (", streamed" if self.streamed else "")


def read_outcomes(rows: Sequence[tuple[str, Path]]) -> list[Outcome]:
    """Outcomes of all rows, in their order.

    Args:
        rows: as of `results.report.results_table`.

    Raises:
        DataError: see `results.report.grouped_rows` and `results.intervals`.
    """
    first: dict[str, str] = {}
    of_row = {
        name: [costs(folder) for n, folder in rows if n == name] for name, _ in rows
    }
    found = []
    for row in grouped_rows(list(rows)):
        name = f"{row.student}: {row.what}" if row.student else row.what
        first.setdefault(row.student, row.what)
        rates = {}
        for kind in ("wer", "cer"):
            scores, baseline = (
                [read_sclite(x[row.dset] / f"score_{kind}/result.txt") for x in seeds]
                for seeds in (row.seeds, row.baseline or [])
            )
            if kind == "wer":
                words = scores[0].num_ref
            rates[kind] = mean_rate(scores)
            rates[f"{kind}r"] = reduction(baseline, scores) if baseline else None
        wer_interval, werr_interval, drawn = row_intervals(row)
        streamed = row.dset.endswith(STREAMED_SET)
        found.append(
            Outcome(
                student=row.student,
                what=row.what,
                dset=row.dset.removesuffix(STREAMED_SET),
                streamed=streamed,
                num_seeds=len(row.seeds),
                words=words,
                wer_interval=wer_interval,
                werr_interval=werr_interval,
                is_first=row.what == first[row.student],
                baseline=None if row.baseline is None else first[row.student],
                drawn=drawn,
                parameters=_mean([x[0] for x in of_row[name]]),
                rtf=_mean([x[2 if streamed else 1] for x in of_row[name]]),
                **rates,
            )
        )
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return sum(known) / len(known) if known else None
