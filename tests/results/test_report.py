"""RESULTS.md from real sclite output, and curves from real tensorboard files."""

import re
from pathlib import Path

import builders
import numpy as np
import pytest
import torch
from sclite_scores import HYPOTHESES, REFERENCE, cells, error_rate, needs_sclite, score

from espnet_mtkd.bin.mtkd_report import main
from espnet_mtkd.errors import DataError
from espnet_mtkd.results import intervals, report


@needs_sclite
def test_rates_and_reductions_are_those_of_the_edit_distance(tmp_path):
    rows = []
    for name in ("scratch", "taught", "perfect"):
        score(tmp_path / name, HYPOTHESES[name])
        rows.append((f"conformer: {name}", tmp_path / name))
    table = [cells(x) for x in report.results_table(rows).splitlines()[2:]]
    assert [x[:4] for x in table] == [
        ["conformer", name, "test", "15"] for name in ("scratch", "taught", "perfect")
    ]
    baseline = {u: error_rate(HYPOTHESES["scratch"], u) for u in ("wer", "cer")}
    assert table[0][5] == table[0][7] == ""  # the baseline has no reduction
    for row in table:
        for unit, rate_column in (("wer", 4), ("cer", 6)):
            rate = error_rate(HYPOTHESES[row[1]], unit)
            assert float(row[rate_column]) == pytest.approx(rate, abs=0.051)
            if row[1] != "scratch":
                expected = 100 * (baseline[unit] - rate) / baseline[unit]
                assert float(row[rate_column + 1]) == pytest.approx(expected, abs=0.051)
    assert table[2][4:] == ["0.0", "100.0", "0.0", "100.0"]


@needs_sclite
def test_what_was_decoded_chunk_by_chunk_is_a_set_of_its_own(tmp_path):
    score(tmp_path / "a", HYPOTHESES["scratch"])
    score(tmp_path / "a", HYPOTHESES["taught"], decoding="decode_stream")
    lines = report.results_table([("e: a", tmp_path / "a")]).splitlines()[2:]
    rows = {cells(x)[2]: float(cells(x)[4]) for x in lines}
    assert rows == {
        "test": pytest.approx(error_rate(HYPOTHESES["scratch"], "wer"), abs=0.051),
        "test, streamed": pytest.approx(
            error_rate(HYPOTHESES["taught"], "wer"), abs=0.051
        ),
    }


@needs_sclite
def test_each_encoder_and_test_set_has_its_own_baseline(tmp_path):
    for name, hypotheses in (
        ("a_scratch", "scratch"),
        ("a_taught", "taught"),
        ("b_scratch", "taught"),
        ("b_taught", "scratch"),
    ):
        for dset in ("test", "other"):
            score(tmp_path / name, HYPOTHESES[hypotheses], dset)
    rows = [
        (f"{e}: {w}", tmp_path / f"{e}_{w}")
        for e in "ab"
        for w in ("scratch", "taught")
    ]
    table = [cells(x) for x in report.results_table(rows).splitlines()[2:]]
    assert [x[:3] for x in table] == [
        [e, w, d]
        for e in "ab"
        for w in ("scratch", "taught")
        for d in ("other", "test")
    ]
    reductions = {(x[0], x[2]): float(x[5]) for x in table if x[1] == "taught"}
    assert reductions["a", "test"] == reductions["a", "other"] > 0
    assert reductions["b", "test"] < 0


@needs_sclite
@pytest.mark.remedy(
    "write the name of the one that counts into",
)
def test_of_several_decodings_the_named_one_counts(tmp_path):
    exp, rows = tmp_path / "a", [("e: a", tmp_path / "a")]
    for decoding, name in (("decode_a", "scratch"), ("decode_lm/x.yaml_b", "taught")):
        score(exp, HYPOTHESES[name], decoding=decoding)
    score(exp, HYPOTHESES["perfect"], dset="org/dev", decoding="decode_a")
    with pytest.raises(
        DataError, match="'test' .*: decode_a, decode_lm/x.yaml_b: write"
    ):
        report.results_table(rows)
    for decoding, name in (("decode_a", "scratch"), ("decode_lm/x.yaml_b", "taught")):
        (exp / "decoding").write_text(f"{decoding}\n")
        table = [cells(x) for x in report.results_table(rows).splitlines()[2:]]
        found = {x[2]: float(x[4]) for x in table}
        expected = pytest.approx(error_rate(HYPOTHESES[name], "wer"), abs=0.051)
        assert found == {"test": expected, "dev": 0.0}


@needs_sclite
def test_a_seed_that_lacks_a_set_is_named(tmp_path):
    score(tmp_path / "s0", HYPOTHESES["taught"])
    score(tmp_path / "s0", HYPOTHESES["taught"], decoding="decode_stream")
    score(tmp_path / "s1", HYPOTHESES["taught"])
    rows = [("e: a", tmp_path / "s0"), ("e: a", tmp_path / "s1")]
    with pytest.raises(DataError, match="s1: no scores of 'test, streamed'"):
        report.results_table(rows)


@needs_sclite
def test_a_baseline_without_errors_has_no_reductions(tmp_path):
    for name in ("perfect", "taught"):
        score(tmp_path / name, HYPOTHESES[name])
    rows = [("e: a", tmp_path / "perfect"), ("e: b", tmp_path / "taught")]
    text = report.results_table(rows) + intervals.intervals_table(rows)
    assert "nan" not in text and "inf" not in text
    table = [cells(x) for x in report.results_table(rows).splitlines()[2:]]
    assert [x[5] for x in table] == ["", ""] and table[0][4] == "0.0"


@needs_sclite
def test_seeds_are_averaged_with_their_range(tmp_path):
    rows = []
    for i, name in enumerate(("scratch", "taught", "taught", "perfect")):
        score(tmp_path / f"{i}", HYPOTHESES[name])
        rows.append((f"a: {'scratch' if i < 2 else 'taught'}", tmp_path / f"{i}"))
    table = [cells(x) for x in report.results_table(rows).splitlines()[2:]]
    assert [x[1] for x in table] == ["scratch, 2 seeds", "taught, 2 seeds"]
    bad, good = (error_rate(HYPOTHESES[n], "wer") for n in ("scratch", "taught"))
    assert table[0][4] == f"{(bad + good) / 2:.1f} ({good:.1f}-{bad:.1f})"
    assert table[1][4] == f"{good / 2:.1f} (0.0-{good:.1f})"
    assert float(table[1][5]) == pytest.approx(
        100 * (1 - good / (bad + good)), abs=0.051
    )


@pytest.mark.parametrize("text", [None, "", "| Sum/Avg | 1 2 | 3 4 5 6 7 8 |\n"])
def test_a_row_without_scores_names_the_file(tmp_path, text):
    path = tmp_path / "result.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=str(path)):
        report.read_sclite(path)
    with pytest.raises(DataError, match="stages 12 and 13"):
        report.results_table([("a: b", tmp_path)])


def write_curve(run_dir: Path, values) -> None:
    """Losses as ESPnet's trainer writes them, 5 updates an epoch, with a mean over two
    updates between; `values`: (epoch, train, valid)."""
    from torch.utils.tensorboard import SummaryWriter

    for column, phase in ((1, "train"), (2, "valid")):
        with SummaryWriter(str(run_dir / "tensorboard" / phase)) as writer:
            for row in values:
                if phase == "train":
                    writer.add_scalar("loss", 99.0, 5 * row[0] - 3)
                    writer.add_scalar("iter_epoch", row[0], 5 * row[0])
                writer.add_scalar("loss", row[column], 5 * row[0])


def test_curves_are_what_was_written_a_repeated_epoch_counts_once(tmp_path):
    write_curve(tmp_path, [(1, 5.0, 6.0), (2, 4.0, 5.5), (2, 3.5, 5.25), (3, 3.0, 5.0)])
    assert report.read_curve(tmp_path, "train") == ([1, 2, 3], [5.0, 3.5, 3.0])
    assert report.read_curve(tmp_path, "valid") == ([1, 2, 3], [6.0, 5.25, 5.0])


def test_the_first_part_of_a_training_is_counted_before_the_rest(tmp_path):
    write_curve(tmp_path / "head", [(1, 9.0, 9.5), (2, 8.0, 8.5)])
    write_curve(tmp_path, [(1, 5.0, 6.0)])
    assert report.read_curve(tmp_path, "valid") == ([1, 2, 3], [9.5, 8.5, 6.0])


def test_curves_of_a_real_training_are_the_trainers_own_record(stage1):
    run = stage1("conformer")
    checkpoint = torch.load(run.exp / "checkpoint.pth", weights_only=False)
    record = checkpoint["reporter"]["stats"]
    for phase in ("train", "valid"):
        epochs, losses = report.read_curve(run.exp, phase)
        assert epochs == [1, 2]
        for epoch, loss in zip(epochs, losses, strict=True):
            assert loss == pytest.approx(record[epoch][phase]["loss"], rel=1e-5)


def test_curves_are_a_png_of_some_size(tmp_path):
    from matplotlib import image

    for name in ("mtkd_x", "asr_x", "asr_x/head", "asr_scratch"):
        write_curve(tmp_path / name, [(1, 5.0, 6.0), (2, 4.0, 5.5)])
    init = f"{tmp_path}/mtkd_x/valid.loss.best.pth:encoder:encoder"
    builders.write_yaml(tmp_path / "asr_x/head/config.yaml", dict(init_param=[init]))
    builders.write_yaml(tmp_path / "asr_scratch/config.yaml", dict(init_param=[]))
    assert report.pretraining_of(tmp_path / "asr_x") == tmp_path / "mtkd_x"
    assert report.pretraining_of(tmp_path / "asr_scratch") is None
    png = tmp_path / "curves.png"
    report.plot_curves([tmp_path / n for n in ("asr_x", "asr_scratch")], png)
    assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = image.imread(png)
    assert pixels.shape[0] > 300 and pixels.shape[1] > 800
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10
    assert not png.with_name("curves.png.tmp").exists()


def test_times_of_the_rows_are_summed(tmp_path):
    tsv = tmp_path / "times.tsv"
    tsv.write_text(
        "asr_a\t9\tpre-training: a -> b\t70\nasr_b\t9\tpre-training: a -> b\t90\n"
        "asr_a\t11\ttraining: c\t5\n"
    )
    lines = [cells(x) for x in report.times_table(tsv, {"asr_a", "asr_c"}).splitlines()]
    assert lines[2] == ["asr_a", "9", "pre-training", "70"]
    assert len(lines) == 5 and lines[-1] == ["all", "", "", "75"]


def test_espnets_tables_are_those_of_the_rows():
    head = "# RESULTS\n## Environments\n- date: today\n\n"
    parts = [f"## exp/asr_{x}\n### WER\n|a|b|\n\n" for x in "abc"]
    text = report.espnet_sections("".join([head, *parts]), {"asr_a", "asr_c", "asr_d"})
    assert text == head + parts[0] + parts[2]


@needs_sclite
def test_the_command_writes_results_with_all_parts(tmp_path, capsys):
    for name in ("scratch", "taught"):
        folder = tmp_path / f"asr_{name}"
        score(folder, HYPOTHESES[name])
        write_curve(folder, [(1, 5.0, 6.0)])
    (tmp_path / "stage_times.tsv").write_text("asr_taught\t11\ttraining: c\t5\n")
    (tmp_path / "espnet.md").write_text("# RESULTS\n## exp/asr_scratch\n### WER\n")
    main(
        [
            *("--expdir", str(tmp_path), "--command", "run.sh --budget x"),
            *("--note", "A note.", "--espnet_results", str(tmp_path / "espnet.md")),
            "--rows",
            f"conformer: from scratch={tmp_path}/asr_scratch",
            f"conformer: two teachers={tmp_path}/asr_taught",
        ]
    )
    text = (tmp_path / "RESULTS.md").read_text()
    wer = error_rate(HYPOTHESES["taught"], "wer")
    for part in (
        "run.sh --budget x",
        "A note.",
        "curves.png",
        f"| {wer:.1f} |",
        "### exp/asr_scratch",
    ):
        assert part in text
    assert "two teachers" in capsys.readouterr().out
    assert (tmp_path / "curves.png").is_file()


def test_a_row_without_folder_is_a_usage_error(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--expdir", str(tmp_path), "--rows", "conformer: from scratch"])
    assert end.value.code == 2
    assert "NAME=DIR" in capsys.readouterr().err


@needs_sclite
def test_a_set_that_the_baseline_lacks_has_no_reduction(tmp_path):
    """The first row that has it is no baseline."""
    for name, sets in (("scratch", "a"), ("one", "ab"), ("two", "ab")):
        for dset in sets:
            score(tmp_path / name, HYPOTHESES["scratch"], dset)
    rows = [(f"e: {x}", tmp_path / x) for x in ("scratch", "one", "two")]
    for text in (report.results_table(rows), intervals.intervals_table(rows)):
        table = [cells(x) for x in text.splitlines()]
        column = next(i for i, x in enumerate(table[0]) if x.startswith("WERR"))
        found = {(x[1], x[2]): x[column] for x in table[2:]}
        assert {k for k, v in found.items() if v} == {("one", "a"), ("two", "a")}


def gfm_cells(line: str) -> list[str]:
    """As GitHub reads a row: a bar behind a backslash is text."""
    parts = re.split(r"(?<!\\)\|", line.strip())
    assert parts[0] == parts[-1] == ""
    return [x.strip().replace("\\|", "|") for x in parts[1:-1]]


@needs_sclite
def test_a_bar_in_a_name_does_not_break_the_tables(tmp_path):
    score(tmp_path / "a|b", HYPOTHESES["taught"], "te|st")
    (tmp_path / "a|b/train.log").write_text("Number of model parameters: 2.87 M\n")
    (tmp_path / "stage_times.tsv").write_text("a|b\t11\tx\t5\n")
    main(["--expdir", str(tmp_path), "--rows", f"e|f: g|h={tmp_path}/a|b"])
    tables = [
        [gfm_cells(x) for x in part.splitlines() if x.startswith("|")]
        for part in (tmp_path / "RESULTS.md").read_text().split("\n## ")
    ]
    tables = [x for x in tables if x]
    assert len(tables) == 4
    for table in tables:
        assert {len(x) for x in table} == {len(table[0])}
    assert tables[0][2][:3] == tables[1][2][:3] == ["e|f", "g|h", "te|st"]
    assert tables[2][2][:2] == ["e|f", "g|h"] and tables[3][2][0] == "a|b"


@needs_sclite
def test_a_report_without_curves_and_times_says_so(tmp_path):
    for name in ("asr_a", "asr_$b^$"):
        score(tmp_path / name, HYPOTHESES["taught"])
    write_curve(tmp_path / "asr_$b^$", [(1, 5.0, 6.0)])
    rows = [f"e: {x}={tmp_path}/{x}" for x in ("asr_a", "asr_$b^$")]
    main(["--expdir", str(tmp_path), "--rows", *rows])
    text = (tmp_path / "RESULTS.md").read_text()
    assert "No tensorboard files, so no curve: asr_a\n" in text
    assert "there is no stage_times.tsv" in text
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def drop_expdir(args, tmp_path):
    args[1] = str(tmp_path / "no")


def drop_espnet_results(args, tmp_path):
    args += ["--espnet_results", str(tmp_path / "no.md")]


def repeat_row(args, tmp_path):
    args.append(args[-1].replace("/asr_a", "/./asr_a"))


def break_times(args, tmp_path):
    (tmp_path / "stage_times.tsv").write_text("asr_a\t9\tx\t5\nasr_a 9 x 5\n")


@needs_sclite
@pytest.mark.parametrize(
    "change, code, message",
    [
        (drop_expdir, 2, "--expdir: no such directory"),
        (drop_espnet_results, 2, "--espnet_results: no such file"),
        (repeat_row, 2, "'e: a' has the directory"),
        (break_times, 4, "stage_times.tsv, line 2: expected"),
    ],
)
def test_what_a_report_cannot_be_made_of(tmp_path, capsys, change, code, message):
    score(tmp_path / "asr_a", HYPOTHESES["taught"])
    args = ["--expdir", str(tmp_path), "--rows", f"e: a={tmp_path}/asr_a"]
    change(args, tmp_path)
    if change is drop_espnet_results:  # --rows takes all words that follow
        args = [*args[:2], *args[4:], *args[2:4]]
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == code and message in capsys.readouterr().err


@needs_sclite
def test_no_number_where_next_to_nothing_is_wrong(tmp_path):
    """A draw without errors in the baseline has no reduction, nor has the interval."""
    one_error = [*REFERENCE[:-1], "GOOD BYE"]
    for name, hypotheses in (("one", one_error), ("none", REFERENCE)):
        score(tmp_path / name, hypotheses)
    for first, second in (("one", "none"), ("none", "one"), ("none", "none")):
        rows = [("e: a", tmp_path / first), ("e: b", tmp_path / second)]
        text = report.results_table(rows) + intervals.intervals_table(rows)
        assert "nan" not in text and "inf" not in text
        table = intervals.intervals_table(rows).splitlines()[2:]
        assert [cells(x)[4] for x in table] == ["", ""]
        assert [bool(cells(x)[3]) for x in table] == [first == "one", second == "one"]
