"""Pseudo-labels: which are kept, and the training set that they make."""

import math

import pytest

from espnet_mtkd.bin import mtkd_pseudo_label


@pytest.fixture
def sets(tmp_path):
    """A labelled set, an unlabelled one, and the teacher's hypotheses."""
    labelled, unlabelled = tmp_path / "train", tmp_path / "unlabelled_x"
    decoded = tmp_path / "decode/unlabelled_x"
    for folder in (labelled, unlabelled, decoded):
        folder.mkdir(parents=True)
    (labelled / "wav.scp").write_text("b1 /b1.flac\n")
    (labelled / "text").write_text("b1 HELLO WORLD\n")
    (labelled / "feats_type").write_text("raw\n")
    (unlabelled / "wav.scp").write_text("".join(f"a{i} /a{i}.flac\n" for i in range(4)))
    (decoded / "text").write_text("a0 ONE\na1 TWO\na2 \na3 THREE\n")
    (decoded / "token_int").write_text("a0 1 2 3\na1 4 5 6\na2 \na3 7 8 9 9 9\n")
    (decoded / "score").write_text("a0 -0.3\na1 -3.0\na2 -0.1\na3 tensor(-0.5)\n")
    return tmp_path


def command(folder, *extra):
    return [
        *("--labelled", str(folder / "train")),
        *("--unlabelled", str(folder / "unlabelled_x")),
        *("--decode_dir", str(folder / "decode"), "--out_dir", str(folder / "out")),
        *extra,
    ]


def test_confident_transcripts_join_the_training_set(sets, capsys):
    mtkd_pseudo_label.main(command(sets, "--min_confidence", "0.8"))
    assert "2 of 4 transcripts kept" in capsys.readouterr().out
    out = sets / "out"
    assert (out / "text").read_text() == "a0 ONE\na3 THREE\nb1 HELLO WORLD\n"
    scp = "a0 /a0.flac\na3 /a3.flac\nb1 /b1.flac\n"
    assert (out / "wav.scp").read_text() == scp
    assert (out / "feats_type").read_text() == "raw\n"
    rows = [x.split("\t") for x in (out / "pseudo_labels.tsv").read_text().splitlines()]
    found = {row[0]: row[1:] for row in rows[1:]}
    assert float(found["a0"][0]) == pytest.approx(math.exp(-0.1), abs=1e-4)
    assert found["a1"][2:] == ["0", "not confident", "TWO"]
    assert found["a2"][2:4] == ["0", "empty"]
    assert found["a3"][2:] == ["1", "", "THREE"]


@pytest.mark.parametrize(
    "change, code, message",
    [
        ({"score": "a0 -0.3\na1 nan?\na2 0\na3 0\n"}, 4, "a1: expected a log-prob"),
        ({"text": None}, 4, "text: no such file"),
    ],
)
def test_hypotheses_that_cannot_be_read(sets, capsys, change, code, message):
    for name, content in change.items():
        path = sets / "decode/unlabelled_x" / name
        path.unlink() if content is None else path.write_text(content)
    with pytest.raises(SystemExit) as end:
        mtkd_pseudo_label.main(command(sets))
    assert end.value.code == code
    assert message in capsys.readouterr().err


def test_an_id_in_both_sets_and_a_wrong_threshold(sets, capsys):
    with pytest.raises(SystemExit) as end:
        mtkd_pseudo_label.main(command(sets, "--min_confidence", "80"))
    assert end.value.code == 2
    assert "expected 0 to 1, found 80" in capsys.readouterr().err
    (sets / "train/wav.scp").write_text("a0 /b1.flac\n")
    (sets / "train/text").write_text("a0 HELLO WORLD\n")
    with pytest.raises(SystemExit) as end:
        mtkd_pseudo_label.main(command(sets))
    assert end.value.code == 4
    assert "utterance a0 stands in two" in capsys.readouterr().err
