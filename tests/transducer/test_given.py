"""Transcripts that another recogniser wrote, and the training set that they make."""

import json

import builders
import pytest

from espnet_mtkd.bin import mtkd_pseudo_label
from espnet_mtkd.data.kaldi import read_lines

TEXT = {
    "u0": "ONE TWO",
    "u1": "three",
    "u2": "FIVE FIVE FIVE FIVE",
    "u3": "",
    "u4": "SIX",
    "u5": "EIGHT " * 20,
}


@pytest.fixture
def sets(tmp_path):
    """A labelled set, an unlabelled one of 7 utterances, transcripts of 6 of them."""
    labelled = builders.build_data_dir(tmp_path / "train", 3, 5)
    audio = builders.build_data_dir(tmp_path / "unlabelled_x", 7, 6)
    (audio / "text").unlink()
    lines = (audio / "wav.scp").read_text().splitlines()
    scp = "".join(f"u{i} {x.split()[1]}\n" for i, x in enumerate(lines))
    (audio / "wav.scp").write_text(scp)
    utts = [x.split()[0] for x in (labelled / "wav.scp").read_text().splitlines()]
    words = " ".join(builders.WORDS)
    (labelled / "text").write_text("".join(f"{utt} {words}\n" for utt in utts))
    (labelled / "feats_type").write_text("raw\n")
    write(tmp_path, TEXT)
    return tmp_path


def write(folder, text):
    lines = "".join(f"{utt} {words}\n" for utt, words in text.items())
    (folder / "whisper.txt").write_text(lines)


def run(folder, *flags):
    command = ["--text", folder / "whisper.txt", "--labelled", folder / "train"]
    command += ["--unlabelled", folder / "unlabelled_x", "--out_dir", folder / "out"]
    mtkd_pseudo_label.main([str(x) for x in (*command, *flags)])
    rows = (folder / "out/pseudo_labels.tsv").read_text().splitlines()
    found = [dict(zip(rows[0].split("\t"), r.split("\t"), strict=True)) for r in rows]
    return {row["utterance"]: row for row in found[1:]}


def failed(folder, capsys, *flags):
    with pytest.raises(SystemExit) as end:
        run(folder, *flags)
    return end.value.code, capsys.readouterr().err


def test_they_join_the_training_set_where_nothing_is_wrong_with_them(sets, capsys):
    rows = run(sets)
    assert {utt: row["reason"] for utt, row in rows.items()} == {
        "u0": "",
        "u1": "characters that no transcript has",
        "u2": "repeats itself",
        "u3": "empty",
        "u4": "",
        "u5": "many tokens a second",
    }
    text = read_lines(sets / "out/text", "")
    own = read_lines(sets / "train/text", "")
    assert text == {**own, "u0": "ONE TWO", "u4": "SIX"}
    audio = read_lines(sets / "unlabelled_x/wav.scp", "")
    assert read_lines(sets / "out/wav.scp", "")["u4"] == audio["u4"]
    out = capsys.readouterr().out
    assert "6 of 7 utterances are in" in out and "2 of 6 transcripts kept" in out
    assert "1 repeats itself" in out


def test_alone_the_transcribed_audio_is_left_out(sets):
    run(sets, "--alone")
    assert read_lines(sets / "out/text", "") == {"u0": "ONE TWO", "u4": "SIX"}
    assert set(read_lines(sets / "out/wav.scp", "")) == {"u0", "u4"}
    assert (sets / "out/feats_type").read_text() == "raw\n"


def test_confidences_beside_the_text_are_a_filter(sets):
    (sets / "whisper.txt.confidence").write_text("u0 0.5\nu4 0.91\n")
    rows = run(sets, "--min_confidence", "0.9")
    assert rows["u0"]["reason"] == "not confident" and rows["u4"]["reason"] == ""
    assert float(rows["u4"]["confidence"]) == 0.91
    assert "u0" not in read_lines(sets / "out/text", "")


def test_who_wrote_them_is_kept(sets):
    run(sets)
    source = json.loads((sets / "out/pseudo_source.json").read_text())
    assert source == {"text": str(sets / "whisper.txt"), "made_by": None}
    (sets / "whisper.txt.json").write_text('{"model": "whisper base"}')
    run(sets)
    source = json.loads((sets / "out/pseudo_source.json").read_text())
    assert source["made_by"] == {"model": "whisper base"}


@pytest.mark.parametrize(
    "text, words",
    [
        ({"rec": "ONE"}, ["0 of its 1 ids", "such as u0, u1, u2", "rec"]),
        ({"u": "ONE"}, ["pieces have ids of their own: u0, u1, u2"]),
        ({**TEXT, "x7": "ONE"}, ["6 of its 7 ids", "1 are not: x7"]),
        ({}, ["0 of its 0 ids"]),
        ({"u0": "one", "u1": "two"}, ["2 of 2 transcripts", "like", "o"]),
    ],
)
def test_transcripts_of_other_audio_or_in_other_writing(sets, capsys, text, words):
    write(sets, text)
    code, message = failed(sets, capsys)
    assert code == 4 and "whisper.txt" in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize("value", ["x", "1.5", "nan", ""])
def test_a_confidence_that_is_none(sets, capsys, value):
    (sets / "whisper.txt.confidence").write_text(f"u0 {value}\n")
    code, message = failed(sets, capsys)
    assert code == 4 and "expected a confidence from 0 to 1" in message


def test_nothing_left_to_train_on(sets, capsys):
    (sets / "whisper.txt.confidence").write_text("u0 0.1\n")
    code, message = failed(sets, capsys, "--alone")
    assert code == 4 and "loosen the filters" in message


@pytest.mark.parametrize("flag", ["decode_dir", "asr_exp", "reference"])
def test_flags_of_a_teacher_transducer_beside_a_text(sets, capsys, flag):
    code, message = failed(sets, capsys, f"--{flag}", "x")
    assert code == 2 and "--text" in message
