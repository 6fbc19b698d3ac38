"""The lines on latency that a streaming decoding ends with."""

from collections import Counter

import numpy as np
import pytest

from espnet_mtkd.report.latency import read_latency
from espnet_mtkd.streaming.latency import LatencyMeter, summarize


@pytest.mark.parametrize("num", [1, 500])
def test_the_histogram_counts_each_word_once_and_the_page_reads_it(tmp_path, num):
    rng = np.random.default_rng(num)
    words = [(float(x), float(x) + 20) for x in rng.normal(300, 300, num)]
    words += [(80.0, 90.0), (79.99, 80.0), (-0.01, 5.0)][: num - 1]
    meters = [LatencyMeter(" ".join) for _ in range(2)]
    meters[0].words_ms, meters[1].words_ms = words[::2], words[1::2]
    expected = Counter()
    for latency, _ in words:
        begin = -8000
        while begin + 80 <= latency:
            begin += 80
        expected[begin] += 1
    log = tmp_path / "stream.log"
    log.write_text("\n".join(summarize(meters)) + "\n")
    (tmp_path / "score_wer").mkdir()
    (tmp_path / "score_wer/result.txt").write_text("| Sum | 1 4 | 3 1 0 0 1 1 |\n")
    found = read_latency(log, "a row", tmp_path)
    assert found.bins == expected and found.bin_ms == 80
    assert found.num_words == len(words) and found.wer == 25.0
    assert found.median == pytest.approx(np.median([x for x, _ in words]), abs=0.51)


def test_no_word_makes_no_histogram(tmp_path):
    lines = summarize([LatencyMeter(" ".join)])
    assert lines == [
        "first token latency: none was found",
        "word latency: none was found",
    ]
    (tmp_path / "stream.log").write_text("\n".join(lines))
    assert read_latency(tmp_path / "stream.log", "a row", tmp_path) is None
