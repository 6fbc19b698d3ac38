"""Comparisons of rows against a plain loop, and that their p and interval hold."""

import re
from pathlib import Path

import numpy as np
import pytest
from sclite_scores import cells

from espnet_mtkd.bin import mtkd_compare, mtkd_report
from espnet_mtkd.errors import DataError
from espnet_mtkd.results import compare, intervals

WORDS, UTTS = 8, 10
IDS = {n: [f"s{s}-u{s}.{u}" for s in range(n) for u in range(UTTS)] for n in (1, 20)}


def write(asr_exp: Path, num_err, dset="test") -> Path:
    """Scores as sclite prints them; errors of `WORDS` words: (speakers, UTTS)."""
    num_err = np.asarray(num_err)
    ids, errors = IDS[len(num_err)], num_err.ravel()
    num, total = WORDS * len(ids), int(errors.sum())
    lines = [f"| Sum | {len(ids)} {num} | {num - total} {total} 0 0 {total} 1 |"]
    for name, e in zip(ids, errors, strict=True):
        lines.append(f"id: ({name})\nScores: (#C #S #D #I) {WORDS - e} {e} 0 0")
    for unit in ("wer", "cer"):
        path = asr_exp / f"decode_asr/{dset}/score_{unit}/result.txt"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(lines) + "\n")
        for side in ("ref", "hyp"):
            text = "".join(f"{'x ' * WORDS}\t({name})\n" for name in ids)
            path.with_name(f"{side}.trn").write_text(text)
    return asr_exp


def draw(rng, gain, num_speakers=20, spread=0.15):
    """Errors of a row and of another, which makes more by `gain`; speakers differ in
    both."""
    hard = rng.normal(0.35, 0.1, (num_speakers, 1))
    more = rng.normal(gain, spread, (num_speakers, 1))
    return [
        rng.binomial(WORDS, np.clip(x, 0, 1) * np.ones((1, UTTS)))
        for x in (hard, hard + more)
    ]


def test_interval_and_p_are_those_of_a_plain_loop(tmp_path):
    """Two seeds a row: means over them, the same speakers drawn for both rows."""
    rng = np.random.default_rng(1)
    first, second = draw(rng, 0.06), draw(rng, 0.06)
    rows = [
        [
            write(tmp_path / f"{i}_{seed}", x[i])
            for seed, x in enumerate((first, second))
        ]
        for i in (0, 1)
    ]
    (found,) = compare.compare(*rows)
    draws = []
    for _ in range(5000):
        errors = [0.0, 0.0]
        for speaker in rng.integers(0, 20, 20):
            for i in (0, 1):
                errors[i] += (first[i][speaker].sum() + second[i][speaker].sum()) / 2
        draws.append(100 * (errors[1] - errors[0]) / (20 * UTTS * WORDS))
    rates = [[100 * x[i].mean() / WORDS for x in (first, second)] for i in (0, 1)]
    assert found.points == pytest.approx(np.mean(rates[1]) - np.mean(rates[0]))
    assert found.interval == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=0.3)
    assert found.p == pytest.approx(2 * np.mean(np.array(draws) <= 0), abs=0.02)
    expected = [b - a for a, b in zip(*rates, strict=True)]
    assert found.by_seed == pytest.approx(expected)
    assert found.drawn == "by speaker, 20 speakers"
    (back,) = compare.compare(*rows[::-1])
    assert back.points == -found.points and back.p == pytest.approx(found.p, abs=0.01)


def test_what_all_speakers_share_is_no_doubt_however_hard_they_are(tmp_path):
    """One word an utterance better, for easy and hard speakers alike: a difference
    without spread, though the rows' own intervals are wide."""
    hard = np.arange(20)[:, None] % 7 + np.zeros((1, UTTS), int)
    rows = [[write(tmp_path / "a", hard)], [write(tmp_path / "b", hard + 1)]]
    (found,) = compare.compare(*rows)
    assert found.interval == pytest.approx((12.5, 12.5)) and found.p < 0.001
    counts = [hard.sum(1).astype(float), np.full(20, 1.0 * UTTS * WORDS)]
    low, high = intervals.bootstrap_interval(lambda e, n: 100 * e / n, *counts)
    assert high - low > 10


def test_of_rows_that_are_alike_few_have_a_small_p(tmp_path, monkeypatch):
    """5 of 100 in the mean, and as many intervals without 0; 20 speakers are few, so
    somewhat more; binomial, above 16 has a probability below 0.1 % at 7 %."""
    monkeypatch.setattr(intervals, "NUM_RESAMPLES", 400)
    rng = np.random.default_rng(2)
    small = outside = 0
    for i in range(100):
        rows = [[write(tmp_path / f"{i}{j}", x)] for j, x in enumerate(draw(rng, 0.0))]
        (found,) = compare.compare(*rows)
        small += found.p < 0.05
        outside += not found.interval[0] <= 0 <= found.interval[1]
    assert small <= 16 and outside <= 16


def test_by_speaker_is_wider_than_by_utterance(tmp_path, monkeypatch):
    rows = [
        [write(tmp_path / f"{i}", x)]
        for i, x in enumerate(draw(np.random.default_rng(3), 0.05))
    ]
    (by_speaker,) = compare.compare(*rows)
    monkeypatch.setattr(intervals, "find_speakers", lambda ids, folder: None)
    (by_utterance,) = compare.compare(*rows)
    width = [b - a for a, b in (by_speaker.interval, by_utterance.interval)]
    assert width[0] > 1.3 * width[1]


def test_a_row_is_no_better_than_itself(tmp_path):
    row = [write(tmp_path / "a", np.ones((20, UTTS), int))]
    (found,) = compare.compare(row, row)
    assert (found.points, found.interval, found.p) == (0.0, (0.0, 0.0), 1.0)
    assert compare.cells(found)[:4] == ["0.0", "0.0 to 0.0", "1.000", ""]


def test_rows_without_a_common_set_and_with_other_words_are_refused(tmp_path):
    ones = np.ones((1, UTTS), int)
    a, b = write(tmp_path / "a", ones, "x"), write(tmp_path / "b", ones, "y")
    with pytest.raises(DataError, match="a and .*b: no test set in common: x; y"):
        compare.compare([a], [b])
    rows = [("e: a", a), ("e: b", b)]  # a page of many rows is not lost for that
    assert len(compare.pairs_table(rows, [("e: a", "e: b")]).splitlines()) == 2
    write(tmp_path / "a", ones, "y")
    path = a / "decode_asr/y/score_wer/result.txt"
    text = path.read_text().replace("s0-u0.3", "s0-u0.99")
    path.write_text(text)
    with pytest.raises(DataError, match="not the same utterances"):
        compare.compare([a], [b])


def test_the_report_has_a_section_of_the_pairs(tmp_path, capsys):
    rng = np.random.default_rng(4)
    errors = [draw(rng, 0.1) for _ in range(2)]
    rows = []
    for name, i in (("all teachers", 0), ("from scratch", 1)):
        for seed, x in enumerate(errors):
            folder = write(tmp_path / f"asr_{i}{'_seed1' * seed}", x[i])
            rows.append(f"e: {name}={folder}")
    command = ["--expdir", str(tmp_path), "--rows", *rows]
    mtkd_report.main(command)
    assert "## Comparisons" not in (tmp_path / "RESULTS.md").read_text()
    pair = ["--compare", "e: all teachers", "e: from scratch"]
    mtkd_report.main([*pair, *command])
    text = (tmp_path / "RESULTS.md").read_text()
    section = text.split("## Comparisons")[1].split("\n## ")[0]
    head, _, line = (x for x in section.splitlines() if x.startswith("|"))
    row = cells(line)
    assert row[:4] == ["e", "all teachers", "from scratch", "test"]
    (found,) = compare.compare(
        [tmp_path / "asr_0", tmp_path / "asr_0_seed1"],
        [tmp_path / "asr_1", tmp_path / "asr_1_seed1"],
    )
    assert row[4:] == compare.cells(found) and len(cells(head)) == len(row)
    capsys.readouterr()

    folders = [str(tmp_path / f"asr_{i}") for i in (0, 1)]
    mtkd_compare.main([*folders, "--seeds", "0", "1"])
    out = capsys.readouterr().out
    low, high = found.interval
    said = f"by {found.points:.1f} points [{low:.1f}, {high:.1f}], p "
    assert f"{folders[0]} is better than {folders[1]} {said}" in out
    mtkd_compare.main([*folders[::-1], "--seeds", "0", "1"])
    said = f"is worse than {folders[0]} {said}"
    assert re.sub(r"\d\.\d", "N", said) in re.sub(
        r"\d\.\d", "N", capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "words, code, message",
    [
        (["{0}/asr_a", "{0}/no"], 2, "no such directory: {0}/no"),
        (["{0}/asr_a", "{0}/asr_a", "--seeds", "1"], 2, "{0}/asr_a_seed1"),
        (["{0}/asr_a", "{0}"], 4, "no scores in it"),
    ],
)
def test_what_cannot_be_compared(tmp_path, capsys, words, code, message):
    write(tmp_path / "x/asr_a", np.ones((1, UTTS), int))
    (tmp_path / "x/none").mkdir()
    words = [x.format(tmp_path / "x") for x in words]
    if code == 4:
        words[1] += "/none"
    with pytest.raises(SystemExit) as end:
        mtkd_compare.main(words)
    assert end.value.code == code
    assert message.format(tmp_path / "x") in capsys.readouterr().err


def test_a_pair_that_the_report_does_not_know_is_refused(tmp_path, capsys):
    folder = write(tmp_path / "asr_a", np.ones((1, UTTS), int))
    with pytest.raises(SystemExit) as end:
        mtkd_report.main(
            [
                *("--compare", "e: a", "e: b"),
                *("--expdir", str(tmp_path), "--rows", f"e: a={folder}"),
            ]
        )
    assert end.value.code == 2
    assert "expected a name of --rows (e: a), found 'e: b'" in capsys.readouterr().err
