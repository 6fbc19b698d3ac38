"""How long after its sound a word was shown, from the logs of streaming decodings."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import DataError
from espnet_mtkd.report.titles import short_names
from espnet_mtkd.results.report import grouped_rows
from espnet_mtkd.results.scores import STREAMED_SET, read_sclite

WORDS = re.compile(
    r"^word latency \((\d+)\): algorithmic median (-?\d+) ms, p90 (-?\d+) ms; "
    r"with computation median (-?\d+) ms, p90 (-?\d+) ms$",
    re.M,
)
BINS = re.compile(r"^word latency, algorithmic, words by (\d+) ms: (.*)$", re.M)


@dataclasses.dataclass(frozen=True)
class Latency:
    """Latencies of a streaming row, in ms.

    Attributes:
        title: row and test set.
        wer: in percent.
        num_words: that were shown.
        median, p90: without computation.
        computed_median, computed_p90: with it.
        bin_ms: width of the histogram's bars.
        bins: where a bar begins -> words, without computation; empty where the log has
            no histogram.
    """

    title: str
    wer: float
    num_words: int
    median: float
    p90: float
    computed_median: float
    computed_p90: float
    bin_ms: int
    bins: dict[int, int]


def read_latencies(rows: Sequence[tuple[str, Path]]) -> list[Latency]:
    """Latencies of all streaming rows whose log has them; each seed by itself.

    Raises:
        DataError: a histogram of another form.
    """
    short = short_names([name for name, _ in rows])
    found = []
    for row in grouped_rows(list(rows)):
        if not row.dset.endswith(STREAMED_SET):
            continue
        for i, seed in enumerate(row.seeds):
            folder = seed[row.dset]
            name = f"{row.student}: {row.what}" if row.student else row.what
            title = f"{short[name]}, {row.dset.removesuffix(STREAMED_SET)}"
            if len(row.seeds) > 1:
                title += f", {i + 1}. seed"
            latency = read_latency(folder / "stream.log", title, folder)
            if latency is not None:
                found.append(latency)
    return found


def read_latency(log: Path, title: str, folder: Path) -> Latency | None:
    """What a log says; None without a line on words."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    words = WORDS.findall(text)
    if not words:
        return None
    bins = {}
    bin_ms, pairs = (BINS.findall(text) or [("0", "")])[-1]
    for pair in pairs.split():
        begin, _, count = pair.partition(":")
        if not (begin.lstrip("-").isdecimal() and count.isdecimal()):
            raise DataError(
                f"{log}: expected '<ms>:<words>' in the histogram of word latencies, "
                f"found '{pair}': decode this set again (--stage 12)"
            )
        bins[int(begin)] = int(count)
    wer = read_sclite(folder / "score_wer/result.txt").rate
    return Latency(title, wer, *map(int, words[-1]), int(bin_ms), bins)
