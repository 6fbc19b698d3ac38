"""How long after its sound a token or word is shown: docs/streaming.md."""

from collections.abc import Callable

import numpy as np

from espnet_mtkd.streaming.stream import Segment

BIN_MS = 80  # of the histogram


class LatencyMeter:
    """Collects latencies of one stream.

    A token is shown with the first result from which on it and all tokens before it
    stay as they are in the final text. Its latency is the time of that result minus the
    time at which the audio of its encoder frame ends (`Segment.times_ms`).

    Args:
        to_text: tokens -> text; what splits it at spaces are words.

    Attributes:
        tokens_ms: for each token, algorithmic latency (audio that had been heard beyond
            its frame) and latency (computation included), in ms.
        words_ms: the same of the last token of each word.
    """

    def __init__(self, to_text: Callable[[list[str]], str]):
        self.to_text = to_text
        self.tokens_ms: list[tuple[float, float]] = []
        self.words_ms: list[tuple[float, float]] = []
        self._shown: list[tuple[int, float, float]] = []  # (token, heard, time)

    def update(self, segments: list[Segment], heard_ms: float, time_ms: float) -> None:
        """Take a result of `Stream.accept` or `finish`.

        Args:
            segments: the result.
            heard_ms: audio that the stream had been given.
            time_ms: when the result was there, on a clock that was 0 when the audio
                began.
        """
        for segment in segments:
            common = 0
            for shown, token in zip(self._shown, segment.token_ids, strict=False):
                if shown[0] != token:
                    break
                common += 1
            self._shown = self._shown[:common] + [
                (token, heard_ms, time_ms) for token in segment.token_ids[common:]
            ]
            if segment.is_final:
                self._close(segment)

    def _close(self, segment: Segment) -> None:
        latencies = [
            (heard - end, time - end)
            for (_, heard, time), end in zip(self._shown, segment.times_ms, strict=True)
        ]
        self.tokens_ms += latencies
        last = {}  # word's number -> its latency
        words: list[str] = []
        for i, latency in enumerate(latencies, 1):
            before, words = words, self.to_text(segment.tokens[:i]).split()
            if words != before:
                last[len(words)] = latency
        self.words_ms += last.values()
        self._shown = []


def summarize(meters: list[LatencyMeter]) -> list[str]:
    """Lines with median and 90th percentile over streams or words, and a histogram.

    The histogram has `<begin of a bar in ms>:<words>` for each bar that is not empty.
    """
    rows = {
        "first token": [meter.tokens_ms[0] for meter in meters if meter.tokens_ms],
        "word": [latency for meter in meters for latency in meter.words_ms],
    }
    lines = []
    for name, latencies in rows.items():
        if not latencies:
            lines.append(f"{name} latency: none was found")
            continue
        columns = zip(*latencies, strict=True)
        text = "; ".join(
            f"{kind} median {np.median(ms):.0f} ms, p90 {np.percentile(ms, 90):.0f} ms"
            for kind, ms in zip(
                ("algorithmic", "with computation"), columns, strict=True
            )
        )
        lines.append(f"{name} latency ({len(latencies)}): {text}")
    algorithmic = [latency for latency, _ in rows["word"]]
    if algorithmic:
        begins, counts = np.unique(
            np.floor_divide(algorithmic, BIN_MS) * BIN_MS, return_counts=True
        )
        pairs = zip(begins, counts, strict=True)
        bars = " ".join(f"{begin:.0f}:{count}" for begin, count in pairs)
        lines.append(f"word latency, algorithmic, words by {BIN_MS} ms: {bars}")
    return lines
