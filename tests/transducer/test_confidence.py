"""Confidence of hypotheses: neither pauses nor a language model change it."""

import argparse
import json
import math
import re
import shutil

import builders
import numpy as np
import pytest
import soundfile
import streaming_models as models
import torch

from espnet_mtkd.bin import mtkd_espnet, mtkd_pseudo_label
from espnet_mtkd.bin import mtkd_extract_paths as extract
from espnet_mtkd.data.kaldi import read_lines
from espnet_mtkd.errors import DataError
from espnet_mtkd.transducer.confidence import (
    mean_probability,
    read_scores,
    score_tokens,
)
from espnet_mtkd.transducer.extract_paths import TeacherTransducer
from espnet_mtkd.transducer.lattice_paths import two_planes
from espnet_mtkd.transducer.path import best_path

V = 12


def lattice(token_frames, num_frames: int, p_token: float, p_blank: float):
    """Logits (T, U + 1, V) of a transducer that emits each token in one frame."""
    U = len(token_frames)
    p_TUV = torch.full((num_frames, U + 1, V), (1 - p_blank) / (V - 1))
    p_TUV[..., 0] = p_blank
    for u, t in enumerate(token_frames):
        p_TUV[t, u] = (1 - p_token) / (V - 1)
        p_TUV[t, u, 1 + u] = p_token
    return p_TUV.log()


def score_on_best_path(logits_TUV, labels):
    labels_U = torch.tensor(labels, dtype=torch.long)
    blank_TU, label_TU, _ = two_planes(logits_TUV.clone(), labels_U, 0)
    frames, positions, _ = best_path(blank_TU, label_TU)
    return score_tokens(frames, positions, label_TU)


@pytest.mark.parametrize("seconds", [2, 4, 6, 30])
@pytest.mark.parametrize("p_token", [0.99, 0.86])
def test_pauses_between_the_tokens_do_not_matter(seconds, p_token):
    num_frames = 25 * seconds
    frames = np.linspace(1, num_frames - 2, 8).astype(int)
    logits = lattice(frames, num_frames, p_token, 0.98)
    logp = score_on_best_path(logits, list(range(1, 9)))
    assert mean_probability(logp.tolist()) == pytest.approx(p_token, abs=1e-4)


def viterbi(logp_TUV, labels, blank: int = 0) -> list[float]:
    """Log-probabilities of the labels on the best alignment: a plain loop."""
    T, U = len(logp_TUV), len(labels)
    best = {(0, 0): (0.0, [])}
    for t in range(T):
        for u in range(U + 1):
            ways = []
            if t > 0:
                score, logp = best[t - 1, u]
                ways.append((score + float(logp_TUV[t - 1, u, blank]), logp))
            if u > 0:
                score, logp = best[t, u - 1]
                step = float(logp_TUV[t, u - 1, labels[u - 1]])
                ways.append((score + step, [*logp, step]))
            if ways:
                best[t, u] = max(ways, key=lambda way: way[0])
    return best[T - 1, U][1]


@pytest.mark.parametrize("T, U", [(1, 0), (1, 3), (5, 0), (7, 4), (4, 7)])
def test_tokens_count_where_the_best_alignment_emits_them(T, U):
    torch.manual_seed(T + U)
    logits = 3 * torch.randn(T, U + 1, V)
    labels = torch.randint(1, V, (U,)).tolist()
    found = score_on_best_path(logits, labels).tolist()
    assert found == pytest.approx(viterbi(logits.log_softmax(2), labels), abs=1e-5)


# ------------------------------------------------- from audio to a training set


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A transducer, a labelled and an unlabelled set, a language model."""
    from espnet2.tasks.lm import LMTask

    folder = tmp_path_factory.mktemp("pseudo")
    exp = folder / "exp/asr_teacher"
    exp.parent.mkdir()
    models.build(exp, blank_bias=0.5)
    (exp / "model.pth").rename(exp / "valid.loss.ave.pth")
    builders.build_data_dir(folder / "train", 2, 31)
    builders.build_data_dir(folder / "unlabelled_a", 5, 32)
    (folder / "exp/lm").mkdir()
    args = {
        **LMTask.get_default_config(),
        "token_list": models.TOKENS,
        "lm_conf": dict(unit=8, nlayers=1),
    }
    torch.manual_seed(0)
    lm = LMTask.build_model(argparse.Namespace(**args))
    torch.save(lm.state_dict(), folder / "exp/lm/valid.loss.ave.pth")
    builders.write_yaml(folder / "exp/lm/config.yaml", args)
    return folder


def decode(world, name: str, *inference_args):
    """As asr.sh's stage 12: `asr_inference`, then its files side by side."""
    exp, data = world / "exp/asr_teacher", world / "unlabelled_a"
    out = exp / name / "unlabelled_a"
    mtkd_espnet.main(
        [
            *("-m", "espnet2.bin.asr_inference", "--ngpu", "0"),
            *("--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"),
            *("--asr_train_config", str(exp / "config.yaml")),
            *("--asr_model_file", str(exp / "valid.loss.ave.pth")),
            *("--output_dir", str(out / "logdir/output.1"), "--beam_size", "3"),
            *inference_args,
        ]
    )
    for file in ("text", "token_int", "score"):
        found = out / "logdir/output.1/1best_recog" / file
        (out / file).write_bytes(found.read_bytes())
    return out


def command(world, name: str, *extra):
    return [
        *("--labelled", str(world / "train")),
        *("--unlabelled", str(world / "unlabelled_a")),
        *("--decode_dir", str(world / "exp/asr_teacher" / name)),
        *("--out_dir", str(world / f"out_{name}"), *extra),
    ]


def rows_of(world, name: str) -> dict[str, list[str]]:
    lines = (world / f"out_{name}/pseudo_labels.tsv").read_text().splitlines()
    return {x.split("\t")[0]: x.split("\t")[1:] for x in lines[1:]}


def lm_arguments() -> list[str]:
    """Those that the page prints."""
    page = (builders.ROOT / "docs/stage2.md").read_text()
    (words,) = re.findall(r'--inference_args "(--lm_train_config [^"]*)"', page)
    return words.split()


def test_a_language_model_does_not_change_the_confidence(world, monkeypatch):
    """The page's options; ESPnet then writes tensors, with the model's part in them."""
    monkeypatch.chdir(world)
    plain = decode(world, "plain")
    with_lm = decode(world, "with_lm", *lm_arguments())
    assert "tensor(" in (with_lm / "score").read_text()
    for name in ("plain", "with_lm"):
        mtkd_pseudo_label.main(command(world, name, "--min_confidence", "0"))
    teacher = TeacherTransducer(
        world / "exp/asr_teacher/config.yaml",
        world / "exp/asr_teacher/valid.loss.ave.pth",
    )
    scp = read_lines(world / "unlabelled_a/wav.scp", "")
    num_same = 0
    tokens = {x: read_lines(x / "token_int", "") for x in (plain, with_lm)}
    for out, name in ((plain, "plain"), (with_lm, "with_lm")):
        for utt, row in rows_of(world, name).items():
            labels = [int(x) for x in tokens[out][utt].split()]
            wave = torch.from_numpy(soundfile.read(scp[utt], dtype="float32")[0])
            lattice = builders.lattice_of(teacher, wave, labels)
            logp = viterbi(lattice.log_softmax(2), labels)
            expected = math.exp(sum(logp) / len(logp)) if logp else 0.0
            assert float(row[0]) == pytest.approx(expected, abs=2e-4)
            num_same += tokens[plain][utt] == tokens[with_lm][utt]
    assert num_same


def test_scores_are_written_once_for_the_same_hypotheses(world):
    out = decode(world, "again")
    mtkd_pseudo_label.main(command(world, "again"))
    scores = out / "token_logp"
    before = scores.stat().st_mtime_ns
    first = rows_of(world, "again")
    mtkd_pseudo_label.main(command(world, "again", "--min_confidence", "0.99"))
    assert scores.stat().st_mtime_ns == before
    # Other hypotheses: of one utterance the first token alone is left.
    lines = (out / "token_int").read_text().splitlines()
    number = max(range(len(lines)), key=lambda i: len(lines[i].split()))
    lines[number] = " ".join(lines[number].split()[:2])
    (out / "token_int").write_text("".join(f"{x}\n" for x in lines))
    mtkd_pseudo_label.main(command(world, "again"))
    assert scores.stat().st_mtime_ns > before
    utt = lines[number].split()[0]
    assert rows_of(world, "again")[utt][1] == "1" != first[utt][1]


@pytest.mark.parametrize(
    "change, code, message",
    [
        (("token_int", "utt32_00 99\n"), 4, "expected tokens below 14, .* found 99"),
        (("token_int", "utt32_00 3 -1\n"), 4, "expected tokens below 14, .* found -1"),
        (("token_int", "other 3\n"), 4, "utterance other is not in"),
        (("token_int", None), 4, "token_int: no such file: expected what asr.sh"),
        (("text", None), 4, "text: no such file"),
    ],
)
def test_hypotheses_that_cannot_be_judged(world, capsys, change, code, message):
    name, content = change
    out = world / "exp/asr_teacher/bad/unlabelled_a"
    out.mkdir(parents=True, exist_ok=True)
    for file in ("text", "token_int"):
        (out / file).write_text("utt32_00 3\n")
    (out / name).unlink() if content is None else (out / name).write_text(content)
    with pytest.raises(SystemExit) as end:
        mtkd_pseudo_label.main(command(world, "bad"))
    assert end.value.code == code
    assert re.search(message, capsys.readouterr().err)


def refusal(words, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        mtkd_pseudo_label.main(words)
    assert end.value.code in (2, 4)
    return capsys.readouterr().err


@pytest.mark.remedy(
    "what asr.sh's stage 12 writes",
    "decode that directory again",
    "give the teacher that decoded it",
    "in token_logp: remove that, it is then written anew",
    "remove the file, it is then written anew",
)
@pytest.mark.parametrize(
    "fault, message",
    [
        ("none", "expected what asr.sh's stage 12 writes"),
        ("other audio", "decode that directory again"),
        ("other teacher", "give the teacher that decoded it (--asr_exp)"),
        ("a number less", "remove that, it is then written anew"),
        ("no number", "remove the file, it is then written anew"),
    ],
)
def test_what_messages_on_hypotheses_say_helps(
    world, tmp_path, monkeypatch, capsys, fault, message
):
    name = fault.replace(" ", "_")
    words = command(world, name)
    scores = world / "exp/asr_teacher" / name / "unlabelled_a/token_logp"
    if fault != "none":
        decode(world, name)
        mtkd_pseudo_label.main(words)
    if fault == "other audio":
        for file in ("text", "token_int"):
            path = scores.with_name(file)
            path.write_text(path.read_text().replace("utt32_00", "old_00"))
    elif fault == "other teacher":
        models.build(tmp_path / "other", token_list=models.TOKENS[:4])
        (tmp_path / "other/model.pth").rename(tmp_path / "other/valid.loss.ave.pth")
        words += ["--asr_exp", str(tmp_path / "other")]
    elif fault in ("a number less", "no number"):
        lines = scores.read_text().splitlines()
        n = max(range(len(lines)), key=lambda i: len(lines[i]))
        lines[n] = lines[n].rpartition(" ")[0] + (" x" if fault == "no number" else "")
        scores.write_text("".join(f"{x}\n" for x in lines))
    assert message in refusal(words, capsys)
    if fault in ("none", "other audio"):
        decode(world, name)
    elif fault == "other teacher":
        words[-1] = str(world / "exp/asr_teacher")
    else:
        scores.unlink()
    mtkd_pseudo_label.main(words)


@pytest.mark.remedy(
    "writes no training set",
    "--reference draws the curve and writes no training set: leave --labelled",
    "--reference: expected the text of the decoded set",
)
def test_a_reference_is_whole_and_makes_no_training_set(world, capsys):
    out = decode(world, "reference")
    text = world / "reference_text"
    text.write_text((out / "text").read_text().partition("\n")[2])
    words = command(world, "reference")
    with_reference = [*words, "--reference", str(text)]
    assert "leave --labelled and --out_dir out" in refusal(with_reference, capsys)
    less = ["--unlabelled", *words[words.index("--unlabelled") + 1 :][:3]]
    less += ["--reference", str(text)]
    assert "the first is ['utt32_00']" in refusal(less, capsys)
    text.write_text((out / "text").read_text())
    mtkd_pseudo_label.main(less)
    assert "is required (without --reference)" in refusal(less[:-2], capsys)
    mtkd_pseudo_label.main(words)


@pytest.mark.remedy("teacher transducer: expected finite logits")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_teacher_whose_logits_mean_nothing_is_refused(world, tmp_path, capsys, value):
    """NaN would be a confidence of 1, and paths through a lattice of NaN."""
    exp = tmp_path / "exp/asr_teacher"
    shutil.copytree(world / "exp/asr_teacher", exp)
    weights = torch.load(exp / "valid.loss.ave.pth")
    weights["joint_network.lin_out.bias"][5] = value
    torch.save(weights, exp / "valid.loss.ave.pth")
    out = exp / "decode/unlabelled_a"
    out.mkdir(parents=True)
    for file in ("text", "token_int"):
        (out / file).write_text("utt32_00 3\n")
    arguments = command(world, "nan", "--decode_dir", str(out.parent))
    paths = ["--asr_exp", str(exp), "--data_dir", str(world / "train")]
    paths += ["--out_dir", str(tmp_path / "paths")]
    for main, words in ((mtkd_pseudo_label.main, arguments), (extract.main, paths)):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 2
        assert re.search(
            "finite logits, .* utt3[12]_00: copy .*valid.loss.ave.pth again, or take "
            "another checkpoint",
            capsys.readouterr().err,
        )
    assert not (out / "token_logp").exists()
    whole = world / "exp/asr_teacher/valid.loss.ave.pth"
    shutil.copy(whole, exp / "1epoch.pth")
    for main, words in ((mtkd_pseudo_label.main, arguments), (extract.main, paths)):
        main([*words, "--model_file", "1epoch.pth"])
    shutil.copy(whole, exp)
    (out / "token_logp").unlink()
    for main, words in ((mtkd_pseudo_label.main, arguments), (extract.main, paths)):
        main(words)


@pytest.mark.remedy(
    "no transcript is kept, so %s is %s: look at its pseudo_labels.tsv",
    "no transcript is kept",
)
def test_filters_that_keep_nothing_are_lowered(world, caplog):
    """To what pseudo_labels.tsv shows."""
    decode(world, "lowered")
    strict = command(world, "lowered", "--min_confidence", "1")
    mtkd_pseudo_label.main(strict)
    assert "look at its pseudo_labels.tsv" in caplog.text
    assert "or lower the filters" in caplog.text
    rows = rows_of(world, "lowered").values()
    best = max(float(row[0]) for row in rows if "not confident" in row)
    caplog.clear()
    mtkd_pseudo_label.main([*strict[:-1], f"{best - 0.01:.4f}"])
    assert "no transcript is kept" not in caplog.text
    labelled = (world / "train/text").read_text()
    assert len((world / "out_lowered/text").read_text()) > len(labelled)


def test_scores_that_are_no_numbers_are_not_believed(tmp_path):
    (tmp_path / "token_logp").write_text("a 1.5 -0.1 nan\n")
    with pytest.raises(DataError, match="utterance a: expected seconds and log-"):
        read_scores(tmp_path)


def test_the_curve_of_a_set_with_text(world, capsys):
    """Its own transcripts are right at every threshold; another's are not."""
    out = decode(world, "curve")
    text = world / "reference"
    text.write_text((out / "text").read_text())
    base = [
        *("--unlabelled", str(world / "unlabelled_a"), "--max_repeats", "1000"),
        *("--decode_dir", str(out.parent), "--reference", str(text)),
    ]
    mtkd_pseudo_label.main([*base, "--curve", str(world / "curve.tsv")])
    head, *rows = (
        x.split("\t") for x in (world / "curve.tsv").read_text().splitlines()
    )
    assert head[:4] == ["min_confidence", "num_utts", "seconds_share", "word_precision"]
    num = [int(row[1]) for row in rows]
    assert num == sorted(num, reverse=True) and num[0] >= 4 and len(num) > 10
    assert {row[3] for row in rows if int(row[1])} == {"1.0000"}
    capsys.readouterr()
    lines = [f"{x.split()[0]} NOTHING\n" for x in text.read_text().splitlines()]
    text.write_text("".join(lines))
    mtkd_pseudo_label.main(base)
    printed = capsys.readouterr().out.splitlines()
    first = printed[printed.index("\t".join(head)) + 1].split("\t")
    assert first[3] == "0.0000" and first[1] == rows[0][1]


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--curve", "x"], "--curve needs --reference"),
        ([], "--labelled is required"),
        (["--labelled", "x", "--reference", "y"], "writes no training set"),
    ],
)
def test_half_of_a_command_is_refused_before_anything_runs(
    tmp_path, capsys, extra, message
):
    command = ["--unlabelled", str(tmp_path), "--decode_dir", str(tmp_path), *extra]
    with pytest.raises(SystemExit) as end:
        mtkd_pseudo_label.main(command)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_what_scores_are_made_of_stands_beside_them(world):
    out = decode(world, "record")
    mtkd_pseudo_label.main(command(world, "record"))
    record = json.loads((out / "token_logp.json").read_text())
    assert set(record) == {"model", "token_int", "num_samples"}


@pytest.fixture
def elsewhere(tmp_path):
    """Hypotheses whose teacher is not at hand: three tokens each, of 2 seconds."""
    builders.build_data_dir(tmp_path / "train", 2, 31)
    builders.build_data_dir(tmp_path / "unlabelled_a", 3, 32)
    out = tmp_path / "exp/asr_teacher/bad/unlabelled_a"
    out.mkdir(parents=True)
    scores = ["-0.3", "tensor(-0.3)", "-3e0"]
    lines = {"text": ["ONE TWO SIX"] * 3, "token_int": ["3 4 5"] * 3, "score": scores}
    for name, found in lines.items():
        numbered = [f"utt32_{i:02}\t{x}\n" for i, x in enumerate(found)]
        (out / name).write_text("".join(numbered))
    return tmp_path


def test_without_the_teacher_espnets_score_is_shared_out(elsewhere, caplog):
    mtkd_pseudo_label.main(command(elsewhere, "bad"))
    found = [float(row[0]) for row in rows_of(elsewhere, "bad").values()]
    expected = [math.exp(-0.1), math.exp(-0.1), math.exp(-1)]
    assert found == pytest.approx(expected, abs=1e-4)
    kept = read_lines(elsewhere / "out_bad/text", "")
    assert {"utt32_00", "utt32_01"} < set(kept) and "utt32_02" not in kept
    assert "pauses count against a transcript" in caplog.text


@pytest.mark.remedy("decode without a bonus, or give the teacher")
@pytest.mark.parametrize("score", ["0.5", "nan", "tensor(x)", "--"])
def test_a_score_that_is_no_log_probability(elsewhere, capsys, score):
    file = elsewhere / "exp/asr_teacher/bad/unlabelled_a/score"
    good = file.read_text()
    file.write_text(good.replace("-3e0", score))
    message = refusal(command(elsewhere, "bad"), capsys)
    assert "utterance utt32_02: expected a log-probability" in message
    file.write_text(good)
    mtkd_pseudo_label.main(command(elsewhere, "bad"))
