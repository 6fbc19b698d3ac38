"""What messages about scores say to do, done as it stands there."""

import re
import shutil

import pytest
from sclite_scores import HYPOTHESES, REFERENCE, needs_sclite, score

from espnet_mtkd.errors import DataError
from espnet_mtkd.results import compare, intervals, report

pytestmark = needs_sclite


def rows_of(folder, *names):
    return [("e: a", folder / x) for x in names]


@pytest.mark.remedy("no scores in it")
def test_a_row_is_scored(tmp_path):
    with pytest.raises(DataError, match="no scores in it: run stages 12 and 13 first"):
        report.results_table(rows_of(tmp_path, "s0"))
    score(tmp_path / "s0", HYPOTHESES["taught"])
    report.results_table(rows_of(tmp_path, "s0"))


@pytest.mark.remedy("decode and score it (stages 12 and 13), or leave the seed out")
@pytest.mark.parametrize("what", ["score", "leave out"])
def test_a_seed_that_lacks_a_set(tmp_path, what):
    for name, dset in (("s0", "test"), ("s0", "dev"), ("s1", "test")):
        score(tmp_path / name, HYPOTHESES["taught"], dset)
    with pytest.raises(DataError, match="s1: no scores of 'dev'"):
        report.results_table(rows_of(tmp_path, "s0", "s1"))
    if what == "score":
        score(tmp_path / "s1", HYPOTHESES["taught"], "dev")
        report.results_table(rows_of(tmp_path, "s0", "s1"))
    else:
        report.results_table(rows_of(tmp_path, "s0"))


@pytest.mark.remedy("or remove the others")
def test_other_decodings_are_removed(tmp_path):
    for decoding in ("decode_a", "decode_b"):
        score(tmp_path / "s0", HYPOTHESES["taught"], decoding=decoding)
    with pytest.raises(DataError, match="or remove the others"):
        report.results_table(rows_of(tmp_path, "s0"))
    shutil.rmtree(tmp_path / "s0/decode_b")
    report.results_table(rows_of(tmp_path, "s0"))


@pytest.mark.remedy(
    "reference words, as in", "score both against one reference (stage 13)"
)
def test_both_rows_are_scored_anew(tmp_path):
    other = ["PLEASE PRESS ONE NOW" if x.startswith("PLEASE") else x for x in REFERENCE]
    score(tmp_path / "s0", HYPOTHESES["taught"])
    score(tmp_path / "s1", HYPOTHESES["taught"], references=other)
    rows = [("e: a", tmp_path / "s0"), ("e: b", tmp_path / "s1")]
    with pytest.raises(DataError, match="score both against one reference"):
        intervals.intervals_table(rows)
    shutil.rmtree(tmp_path / "s1")
    score(tmp_path / "s1", HYPOTHESES["taught"])
    intervals.intervals_table(rows)


@pytest.mark.remedy("decode both on one (stages 12 and 13)")
def test_rows_that_were_decoded_on_other_sets(tmp_path):
    for name, dset in (("s0", "dev"), ("s1", "test")):
        score(tmp_path / name, HYPOTHESES["taught"], dset)
    rows = [tmp_path / "s0"], [tmp_path / "s1"]
    with pytest.raises(DataError, match="dev; test: decode both on one"):
        compare.compare(*rows)
    score(tmp_path / "s0", HYPOTHESES["scratch"], "test")
    (found,) = compare.compare(*rows)
    assert found.dset == "test" and found.points < 0


@pytest.mark.remedy("found '{}': remove the line")
def test_a_line_of_times_that_is_cut(tmp_path):
    path = tmp_path / "stage_times.tsv"
    lines = ["asr_a\t9\tx\t5", "asr_a 9", "asr_a\t11\ty\t5"]
    path.write_text("".join(f"{x}\n" for x in lines))
    with pytest.raises(DataError, match="line 2: .*: remove the line") as error:
        report.times_table(path, ["asr_a"])
    del lines[int(re.search(r"line (\d+)", str(error.value))[1]) - 1]
    path.write_text("".join(f"{x}\n" for x in lines))
    report.times_table(path, ["asr_a"])


def test_a_last_line_of_times_that_has_no_end_is_left_out(tmp_path):
    """A run was cut off while it wrote: the next one puts its line there."""
    path = tmp_path / "stage_times.tsv"
    whole = "asr_a\t9\tdata: ä\t5\n".encode()
    for torn in (b"asr_a\t9", b"asr_a\t9\tx\t77", b"asr_a\t9\tdata: \xc3"):
        path.write_bytes(whole + torn)
        assert list(report.read_times(path)) == [("asr_a", "9", "data: ä", 5)]
        path.write_bytes(torn)
        assert list(report.read_times(path)) == []
