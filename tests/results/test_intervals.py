"""Bootstrap intervals against a plain loop, and what a bad result file says."""

import numpy as np
import pytest
from sclite_scores import (
    HYPOTHESES,
    REFERENCE,
    cells,
    edit_distance,
    needs_sclite,
    score,
)

from espnet_mtkd.errors import DataError
from espnet_mtkd.results import intervals


def counts_of(name):
    return [
        (len(r.split()), edit_distance(r.split(), h.split()))
        for r, h in zip(REFERENCE, HYPOTHESES[name], strict=True)
    ]


@needs_sclite
@pytest.mark.parametrize("name", HYPOTHESES)
def test_errors_of_each_utterance_are_the_edit_distance(tmp_path, name):
    score(tmp_path, HYPOTHESES[name])
    found = intervals.read_utterances(tmp_path / "decode_asr/test/score_wer/result.txt")
    assert [found[f"spk-utt{i}"] for i in range(len(REFERENCE))] == counts_of(name)


def test_an_interval_is_that_of_a_plain_loop():
    rng = np.random.default_rng(1)
    num_ref = rng.integers(1, 20, 200).astype(float)
    num_err = rng.binomial(num_ref.astype(int), 0.3).astype(float)
    rates = []
    for _ in range(5000):
        drawn = rng.integers(0, 200, 200)
        rates.append(100 * num_err[drawn].sum() / num_ref[drawn].sum())
    low, high = intervals.bootstrap_interval(lambda e, n: 100 * e / n, num_err, num_ref)
    assert (low, high) == pytest.approx(np.percentile(rates, [2.5, 97.5]), abs=0.2)


def test_an_interval_holds_the_truth_as_often_as_it_says():
    """95 of 100 corpora, binomial: fewer than 86 would be a one in a thousand case."""
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(100):
        num_err = rng.binomial(10, 0.25, 150).astype(float)
        low, high = intervals.bootstrap_interval(
            lambda e, n: e / n, num_err, np.full(150, 10.0)
        )
        hits += low <= 0.25 <= high
    assert hits >= 86


def test_one_utterance_has_no_interval():
    assert intervals.bootstrap_interval(lambda e: e, np.ones(1)) is None


@needs_sclite
def test_rows_are_compared_on_the_same_draws(tmp_path):
    """Half the errors in every utterance are a reduction of 50 %, however drawn."""
    for name, hypotheses in (
        ("scratch", ["A A QUICK BROWN FOX JUMPS OVER THE LAZY", "A B", "C D", "E F"]),
        ("same", ["A A QUICK BROWN FOX JUMPS OVER THE LAZY", "A B", "C D", "E F"]),
    ):
        score(tmp_path / name, hypotheses)
    rows = [(f"e: {n}", tmp_path / n) for n in ("scratch", "same")]
    table = [cells(x) for x in intervals.intervals_table(rows).splitlines()[2:]]
    assert [x[:3] for x in table] == [["e", "scratch", "test"], ["e", "same", "test"]]
    assert table[0][4] == "" and table[1][4] == "0.0 to 0.0"
    low, high = (float(x) for x in table[0][3].split(" to "))
    assert low < high


@needs_sclite
def test_a_file_whose_alignments_are_not_those_of_its_table_is_refused(tmp_path):
    score(tmp_path, HYPOTHESES["taught"])
    path = tmp_path / "decode_asr/test/score_wer/result.txt"
    text = path.read_text()
    path.write_text(text.replace("Scores: (#C #S #D #I) 2", "Scores: (#C #S #D #I) 1"))
    with pytest.raises(DataError, match=f"{path}: expected alignments of 15 tokens"):
        intervals.read_utterances(path)


def test_costs_are_read_from_the_logs(tmp_path):
    (tmp_path / "a/decode/test/logdir").mkdir(parents=True)
    (tmp_path / "a/decode_stream/test").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "a/train.log").write_text(
        "  Total Number of model parameters: 2.87 M\n"
    )
    (tmp_path / "a/decode/test/logdir/calculate_rtf.log").write_text("x\nRTF: 0.230\n")
    (tmp_path / "a/decode_stream/test/stream.log").write_text("RTF: 0.055 (1 s)\n")
    rows = [("e: a", tmp_path / "a"), ("e: b", tmp_path / "b")]
    lines = intervals.cost_table(rows).splitlines()[2:]
    assert [cells(x) for x in lines] == [["e", "a", "2.87", "0.230", "0.055"]]
