"""The time that stage_times.tsv has of a stage that was left before its end."""

import signal
import subprocess
import time

import builders
import pytest
import stub_recipe
from stub_recipe import run

OPTIONS = dict(teachers="none", asr_tag="a", stop_stage="11")


@pytest.fixture
def recipe(tmp_path):
    return stub_recipe.build(tmp_path)


def seconds_of(recipe, number: str) -> list[int]:
    lines = (recipe / "exp/stage_times.tsv").read_text().splitlines()
    found = [x.split("\t") for x in lines]
    return [int(x[3]) for x in found if x[1] == number]


def break_stage(recipe, number: int, fault: str) -> str:
    """What asr.sh was before."""
    path = recipe / "asr.sh"
    text = path.read_text()
    fault = f'case "${{o_stage}}" in {number}) {fault} ;; esac'
    path.write_text(text.replace("case ", f"{fault}\ncase ", 1))
    return text


def test_attempts_that_failed_count(recipe):
    whole = break_stage(recipe, 11, "sleep 2; exit 4")
    for _ in range(2):
        assert run(recipe, **OPTIONS).returncode == 4
    assert seconds_of(recipe, "11") == []
    (recipe / "asr.sh").write_text(whole)
    assert run(recipe, **OPTIONS).returncode == 0
    (seconds,) = seconds_of(recipe, "11")
    assert seconds >= 4
    result = run(recipe, **OPTIONS, force="true", dry_run="true")
    assert f"exp/asr_a: would run: --force true; took {seconds} s" in result.stdout
    # What was finished does not count for the next time.
    assert run(recipe, **OPTIONS, stage="11").returncode == 0
    assert seconds_of(recipe, "11")[1] < seconds


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_attempt_that_a_signal_ended_counts(recipe, number):
    words = {**stub_recipe.OPTIONS, **OPTIONS}
    process = subprocess.Popen(
        ["./mtkd.sh", *(x for k, v in words.items() for x in (f"--{k}", v))],
        cwd=recipe,
        env={
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(builders.ROOT),
            "STUB_SLEEP": "60",
        },
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while "asr 11" not in (recipe / "calls").read_text():
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(4)
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    finally:
        builders.kill_session(process.pid)
    assert run(recipe, **OPTIONS).returncode == 0
    (seconds,) = seconds_of(recipe, "11")
    assert seconds >= 4


@pytest.mark.parametrize("settings", [{}, dict(inference_args="--x 1")])
def test_an_attempt_with_other_settings_does_not_count(recipe, settings):
    options = dict(OPTIONS, stop_stage="12")
    whole = break_stage(recipe, 12, "exit 4")
    assert run(recipe, **options).returncode == 4
    (recipe / "asr.sh").write_text(whole)
    (kept,) = (recipe / "exp/asr_a/.done").glob(".spent*")
    kept.write_text("\n".join(["100000", *kept.read_text().splitlines()[1:], ""]))
    assert run(recipe, **options, **settings).returncode == 0
    (seconds,) = seconds_of(recipe, "12")
    assert (seconds >= 100000) == (not settings)
    assert not kept.exists()
