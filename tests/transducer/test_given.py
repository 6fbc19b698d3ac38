"""Transcripts that another recogniser wrote, and the training set that they make."""

import json
import re

import builders
import pytest
from tiny_whisper import OPEN, transcribe

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


@pytest.mark.remedy("ids are those of")
@pytest.mark.parametrize("what", ["Transcribe the formatted sets", "take lines of oth"])
def test_transcripts_of_other_utterances(sets, whisper, capsys, what):
    write(sets, {"rec": "ONE"} if "formatted" in what else {**TEXT, "x7": "ONE"})
    code, message = failed(sets, capsys)
    assert code == 4 and what in message
    if what == "Transcribe the formatted sets":
        scp = re.search(r"those of (\S+)/wav.scp", message)[1]
        like = ("--like", sets / "train/text")
        transcribe(whisper[0], scp, sets / "whisper.txt", *OPEN, *like)
        assert len(run(sets)) == 7
    else:
        (strange,) = re.findall(r"1 are not: (\w+)", message)
        write(sets, {utt: words for utt, words in TEXT.items() if utt != strange})
        assert len(run(sets)) == 6


@pytest.mark.remedy("characters that the training set's text has not")
@pytest.mark.parametrize("what", ["mtkd_transcribe --like", "upper or lower case"])
def test_transcripts_in_another_writing(sets, whisper, capsys, what):
    data, text = sets / "unlabelled_x", sets / "whisper.txt"
    loose = ("--max_repeats", "999", "--max_tokens_per_second", "999")
    transcribe(whisper[0], data, text, *OPEN, "--case", "lower")
    code, message = failed(sets, capsys, *loose)
    assert code == 4 and what in message
    if what == "mtkd_transcribe --like":
        found = re.search(r"mtkd_transcribe (--like) data/(\S+) does", message)
        flag, like = found.groups()
        like = sets / like.replace("<train_set>", "train")
        transcribe(whisper[0], data, text, *OPEN, flag, like)
    else:
        lines = read_lines(text, "").items()
        write(sets, {utt: words.upper() for utt, words in lines})
    rows = run(sets, *loose)
    assert len(rows) == 7 and {row["reason"] for row in rows.values()} == {""}


@pytest.mark.remedy("expected a confidence from 0 to 1")
@pytest.mark.parametrize("what", ["correct it", "remove the file"])
def test_a_confidence_is_corrected_or_the_file_removed(sets, capsys, what):
    path = sets / "whisper.txt.confidence"
    path.write_text("u0 90\nu4 0.95\n")
    _, message = failed(sets, capsys)
    assert what in message
    utt = re.search(r"utterance (\w+): expected a confidence", message)[1]
    assert str(path) in message and utt == "u0"
    if what == "correct it":
        path.write_text("u0 0.90\nu4 0.95\n")
    else:
        path.unlink()
    rows = run(sets)
    assert {utt for utt, row in rows.items() if not row["reason"]} == {"u0", "u4"}


def test_nothing_left_to_train_on(sets, capsys):
    (sets / "whisper.txt.confidence").write_text("u0 0.1\n")
    code, message = failed(sets, capsys, "--alone")
    assert code == 4 and "loosen the filters" in message


@pytest.mark.remedy("leave --asr_exp and --reference out")
@pytest.mark.parametrize("flag", ["asr_exp", "reference"])
def test_flags_of_a_teacher_transducer_beside_a_text(sets, capsys, flag):
    code, message = failed(sets, capsys, f"--{flag}", sets / "train/text")
    assert code == 2 and f"--{flag}" in message
    run(sets)


def test_what_is_decoded_beside_a_text(sets, capsys):
    code, message = failed(sets, capsys, "--decode_dir", "x")
    assert code == 2 and "--text (of any recogniser), found both" in message
