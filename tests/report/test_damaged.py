"""Files that are cut, gone or of something else are named, and no page is made."""

import re
import shutil
from pathlib import Path

import pytest
import report_recipe
from sclite_scores import HYPOTHESES, needs_sclite, score

from espnet_mtkd.errors import ConfigError, DataError
from espnet_mtkd.report.page import write_page

pytestmark = needs_sclite


def cut_alignments(exp: Path):
    path = exp / "asr_a/decode_asr/test/score_wer/result.txt"
    text = path.read_text()
    path.write_text(text[: text.index("id: (spk-utt2)")])


def cut_hypotheses(exp: Path):
    path = exp / "asr_a/decode_asr/test/score_wer/hyp.trn"
    path.write_text("".join(path.read_text().splitlines(True)[:2]))


def spoil_hypotheses(exp: Path):
    (exp / "asr_a/decode_asr/test/score_wer/hyp.trn").write_text("PRESS ONE (spk-ut")


def drop_references(exp: Path):
    (exp / "asr_a/decode_asr/test/score_wer/ref.trn").unlink()


def cut_config(exp: Path):
    (exp / "asr_a/config.yaml").write_text("optim_conf: {lr: 0.1")


def cut_times(exp: Path):
    (exp / "stage_times.tsv").write_text("asr_a\t9\tpre-trai\n")


def spoil_histogram(exp: Path):
    shutil.copytree(exp / "asr_a/decode_asr", exp / "asr_a/decode_stream")
    log = report_recipe.STREAM_LOG.replace("480:7", "480:x")
    (exp / "asr_a/decode_stream/test/stream.log").write_text(log)


@pytest.mark.remedy("score this set again", "in the histogram of word latencies")
@pytest.mark.parametrize(
    "damage, error, message",
    [
        (cut_alignments, DataError, "result.txt: expected alignments"),
        (cut_hypotheses, DataError, "hyp.trn: expected the 4 utterances of"),
        (spoil_hypotheses, DataError, "hyp.trn:1: expected '<words> "),
        (drop_references, DataError, "ref.trn: no such file: score"),
        (cut_config, ConfigError, "config.yaml: not valid YAML"),
        (cut_times, DataError, "stage_times.tsv, line 1: expected"),
        (spoil_histogram, DataError, "stream.log: expected '<ms>:<words>'"),
    ],
)
def test_a_damaged_file_is_named_and_scoring_again_mends_it(
    tmp_path, damage, error, message
):
    exp = tmp_path / "exp"
    score(exp / "asr_a", HYPOTHESES["taught"])
    damage(exp)
    rows = [("e: a", exp / "asr_a")]
    with pytest.raises(error, match=re.escape(message)):
        write_page(exp, rows)
    assert not (exp / "report.html").exists()
    shutil.rmtree(exp)
    score(exp / "asr_a", HYPOTHESES["taught"])
    assert write_page(exp, rows).is_file()


@pytest.mark.remedy("other references than in")
def test_rows_of_other_references_are_not_set_side_by_side(tmp_path):
    for name in ("a", "b"):
        score(tmp_path / f"exp/{name}", HYPOTHESES["taught"])
    path = tmp_path / "exp/b/decode_asr/test/score_wer/ref.trn"
    text = path.read_text()
    path.write_text(text.replace("LAZY", "CRAZY"))
    rows = [(f"e: {x}", tmp_path / f"exp/{x}") for x in "ab"]
    with pytest.raises(DataError, match="other references than in"):
        write_page(tmp_path / "exp", rows)
    path.write_text(text)
    write_page(tmp_path / "exp", rows)
