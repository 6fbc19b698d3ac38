"""Bootstrap intervals against a plain loop, and what a bad result file says."""

from pathlib import Path

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
from espnet_mtkd.results.speakers import find_speakers


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


@needs_sclite
def test_costs_are_those_of_the_decodings_that_are_scored(tmp_path):
    score(tmp_path / "a", HYPOTHESES["taught"])
    score(tmp_path / "a", HYPOTHESES["taught"], decoding="decode_stream")
    score(tmp_path / "b", HYPOTHESES["taught"])
    for decoding in ("decode_asr", "decode_trial"):
        (tmp_path / "a" / decoding / "test/logdir").mkdir(parents=True)
    (tmp_path / "a/train.log").write_text(
        "(task:145) INFO: heads that are dropped at saving: 230123 parameters\n"
        "  Total Number of model parameters: 3.10 M\n"
    )
    for name, text in (
        ("decode_asr/test/logdir/calculate_rtf.log", "x\nRTF: 0.230\n"),
        ("decode_trial/test/logdir/calculate_rtf.log", "RTF: 9.000\n"),
        ("decode_stream/test/stream.log", "RTF: 0.055 (1 s)\n"),
    ):
        (tmp_path / "a" / name).write_text(text)
    rows = [("e: a", tmp_path / "a"), ("e: b", tmp_path / "b")]
    lines = intervals.cost_table(rows).splitlines()[2:]
    assert [cells(x) for x in lines] == [["e", "a", "2.87", "0.230", "0.055"]]


# ------------------------------------------------------------- by speaker


def write_counts(folder: Path, ids: list[str], num_err, words: int) -> None:
    """Sums and alignments as sclite prints them."""
    num, total = words * len(ids), int(sum(num_err))
    lines = [f"| Sum | {len(ids)} {num} | {num - total} {total} 0 0 {total} 1 |"]
    for name, e in zip(ids, num_err, strict=True):
        lines.append(f"id: ({name})\nScores: (#C #S #D #I) {words - e} {e} 0 0")
    for unit in ("wer", "cer"):
        path = folder / f"score_{unit}/result.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")


SPEAKERS, UTTS, WORDS = 63, 20, 6


def draw_corpus(rng, num_speakers=SPEAKERS):
    """Errors (speakers, utterances) of a baseline and a row; the speakers differ."""
    hard = rng.normal(0, 0.8, (num_speakers, 1)) + np.zeros((1, UTTS))
    gain = rng.normal(0, 0.4, (num_speakers, 1))
    return [
        rng.binomial(WORDS, 1 / (1 + np.exp(-x))) for x in (1 + hard, 0.4 + hard + gain)
    ]


def table_of(root: Path, corpus, ids) -> list[list[str]]:
    for name, errors in zip(("scratch", "taught"), corpus, strict=True):
        folder = root / name / "decode_asr/test"
        write_counts(folder, ids, errors.ravel(), WORDS)
    rows = [(f"e: {name}", root / name) for name in ("scratch", "taught")]
    return [cells(x) for x in intervals.intervals_table(rows).splitlines()[2:]]


def ends(text: str) -> list[float]:
    return [float(x) for x in text.split(" to ")]


def test_intervals_by_speaker_hold_the_truth_as_often_as_they_say(
    tmp_path, monkeypatch
):
    """95 of 100, binomial: fewer than 87 in 100 corpora have a probability of 0.1 %.

    By utterance the same corpora give fewer than 82.
    """
    monkeypatch.setattr(intervals, "NUM_RESAMPLES", 400)
    rng = np.random.default_rng(3)
    base, row = draw_corpus(rng, 200_000)
    truth = {3: 100 * row.mean() / WORDS, 4: 100 * (1 - row.mean() / base.mean())}
    ids = [f"s{s}-s{s}-u{u}" for s in range(SPEAKERS) for u in range(UTTS)]
    text = "".join(f"{x.partition('-')[2]} A\n" for x in ids)
    for name in ("scratch", "taught"):
        (tmp_path / name / "decode_asr/test").mkdir(parents=True)
        (tmp_path / name / "decode_asr/test/text").write_text(text)
    hits = {3: 0, 4: 0}
    for _ in range(100):
        line = table_of(tmp_path, draw_corpus(rng), ids)[1]
        assert line[5] == f"by speaker, {SPEAKERS} speakers"
        for column, value in truth.items():
            low, high = ends(line[column])
            hits[column] += low <= value <= high
    assert min(hits.values()) >= 87


PLACES = ["a/decode_asr/test", "dump/raw/test", "dump/raw/org/test", "data/test"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.remedy(
    "An interval says `speakers unknown`.",
)
def test_speakers_are_found_where_a_recipe_keeps_them(tmp_path, monkeypatch, place):
    """Ids that can be cut at several places; files of other ids are passed by."""
    monkeypatch.chdir(tmp_path)
    utt2spk = {f"Spk-{i // 4}-utt-{i}": f"Spk-{i // 4}" for i in range(80)}
    ids = [f"{spk}-{utt}".lower() for utt, spk in utt2spk.items()]
    folder = Path("a/decode_asr/test")
    write_counts(folder, ids, [1] * 80, 5)
    for other in PLACES:
        Path(other).mkdir(parents=True, exist_ok=True)
        (Path(other) / "utt2spk").write_text("other speaker\n")
    assert find_speakers(ids, folder) is None
    text = "".join(f"{utt} {spk}\n" for utt, spk in utt2spk.items())
    (Path(place) / "utt2spk").write_text(text)
    found = find_speakers(ids, folder)
    assert found == {f"{s}-{u}".lower(): s.lower() for u, s in utt2spk.items()}
    words = cells(intervals.intervals_table([("e: a", Path("a"))]).splitlines()[2])[5]
    assert words == "by speaker, 20 speakers"


def test_the_data_that_the_log_names_is_looked_at(tmp_path):
    folder = tmp_path / "exp/a/decode_asr/test"
    (folder / "logdir").mkdir(parents=True)
    (tmp_path / "other/raw/test").mkdir(parents=True)
    (tmp_path / "other/raw/test/utt2spk").write_text("u-1 a-b\nu-2 a-b\n")
    (folder / "logdir/asr_inference.1.log").write_text(
        "# Running on a\n# python3 -m espnet2.bin.asr_inference --ngpu 0 "
        "--data_path_and_name_and_type other/raw/test/wav.scp,speech,sound \n"
    )
    found = find_speakers({"a-b-u-1", "a-b-u-2"}, folder)
    assert found == {"a-b-u-1": "a-b", "a-b-u-2": "a-b"}


@pytest.mark.parametrize(
    "num, words",
    [
        (1, "by utterance: one speaker, holds for that one alone"),
        (4, "by utterance: 4 speakers, holds for these alone"),
        (5, "by speaker, 5 speakers: few, so too narrow"),
        (15, "by speaker, 15 speakers"),
    ],
)
def test_few_speakers_are_told(tmp_path, num, words):
    corpus = draw_corpus(np.random.default_rng(4), num)
    ids = [f"s{s}-u{s * UTTS + u}" for s in range(num) for u in range(UTTS)]
    (line, _) = table_of(tmp_path, corpus, ids)
    assert line[5] == words
    errors = corpus[0].ravel() if "utterance" in words else corpus[0].sum(1)
    words_of = np.full(len(errors), WORDS * corpus[0].size / len(errors))
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, len(errors), (20000, len(errors)))
    rates = 100 * errors[drawn].sum(1) / words_of[drawn].sum(1)
    expected = np.percentile(rates, [2.5, 97.5])
    assert ends(line[3]) == pytest.approx(expected, abs=1)


def test_speakers_of_one_utterance_each_are_utterances(tmp_path):
    corpus = [x.reshape(-1, 1)[:60] for x in draw_corpus(np.random.default_rng(6))]
    one = table_of(tmp_path / "one", corpus, [f"s{i}-u{i}" for i in range(60)])
    unknown = table_of(tmp_path / "no", corpus, [f"a-{i}-b" for i in range(60)])
    assert [x[:5] for x in one] == [x[:5] for x in unknown]
    assert one[0][5] == "by utterance, 60 utterances of as many speakers"
    assert unknown[0][5] == "by utterance: speakers unknown"


def test_other_references_are_refused(tmp_path):
    for name, words in (("a", 5), ("b", 6)):
        write_counts(tmp_path / name / "decode_asr/test", ["s-1", "s-2"], [1, 2], words)
    rows = [("e: a", tmp_path / "a"), ("e: b", tmp_path / "b")]
    with pytest.raises(DataError, match="s-1: expected 6 reference words"):
        intervals.intervals_table(rows)
