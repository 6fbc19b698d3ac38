"""RESULTS.md is asked for when a row is scored, in the order of the rows."""

import os
from pathlib import Path

import pytest

from espnet_mtkd.ladder.page import Page
from espnet_mtkd.ladder.schedule import Runner

# mtkd_report needs real scores (tests/results): this one writes how it was called.
REPORT = """#!/usr/bin/env bash
echo "$*" >> calls
echo table > exp/RESULTS.md
touch exp/curves.png exp/report.html
"""


@pytest.fixture(autouse=True)
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("python", REPORT), ("scripts/utils/show_asr_result.sh", "")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def row(name: str, scored: bool = True) -> tuple[str, Path]:
    folder = Path("exp") / name
    (folder / ".done").mkdir(parents=True, exist_ok=True)
    if scored:
        (folder / ".done/13_test").write_text("x")
    return f"e: {name}", folder


def calls() -> list[str]:
    path = Path("calls")
    found = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def page(runner, order=(), note="") -> Page:
    values = dict(expdir="exp", python="./python", command="c", note=note)
    values["report_mb"] = "10"
    return Page(runner, values, [("e: b", "e: a")], order)


def test_rows_that_end_in_another_order_stand_in_their_own():
    """What is not there yet is named: the first row is what others are measured by."""
    rows = [row(x) for x in "abc"]
    with Runner() as runner:
        found = page(runner, rows)
        assert found.add(rows[1]) == 0
        (call,) = calls()
        assert call.endswith("--rows e: b=exp/b") and "--compare" not in call
        assert "--note=Rows not finished: e: a; e: c. " in call
        os.utime("exp/a/.done/13_test")
        found.add(rows[0])
        (call,) = calls()
        assert call.endswith("--compare e: b e: a --rows e: a=exp/a e: b=exp/b")
        assert (
            found.finish(rows, lost=True) == 0 and calls() == []
        )  # it is that already
        assert found.finish(rows) == 0
        assert calls()[0].endswith("--rows e: a=exp/a e: b=exp/b e: c=exp/c")


def test_after_each_other_the_page_is_of_the_rows_so_far_and_made_once():
    rows = [row("a"), row("b", scored=False)]
    with Runner() as runner:
        found = page(runner, note="N.")
        for x in rows:
            found.add(x)
        (call,) = calls()
        assert "--note=N. --rows" in call
        found.finish(rows)
        assert "--note=N. Rows not finished: e: b. --rows" in calls()[0]
        again = page(runner, note="N.")
        again.finish(rows)
        assert calls() == []  # of these rows, and no stage has run since
        Path("exp/stage_times.tsv").write_text("x")
        again = page(runner, note="N.")
        again.finish(rows)
        assert len(calls()) == 1


def test_a_report_that_fails_is_told_and_made_again():
    rows = [row("a")]
    Path("python").write_text(REPORT + "exit 4\n")
    with Runner() as runner:
        assert page(runner).add(rows[0]) == 4
        Path("python").write_text(REPORT)
        calls()
        assert page(runner).finish(rows) == 0
    assert len(calls()) == 1
