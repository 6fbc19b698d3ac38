"""Jobs beside each other: order, what failed, GPUs, and how they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import builders
import pytest

from espnet_mtkd.ladder.jobs import Job, choose_number, threads_of_each
from espnet_mtkd.ladder.schedule import Runner, run_beside, run_in_order


def job(name, script="", **keys) -> Job:
    """A job that writes when it began and ended."""
    script = (
        f"echo + {name} >> events; {script or 'sleep 0.3'}; echo - {name} >> events"
    )
    return Job(name, f"job {name}", ("bash", "-ec", script), **keys)


def run(jobs, num, devices=None):
    """Exit code, the events of the jobs, and the names of those that ended well."""
    ended = []
    with Runner() as runner:
        code = run_beside(
            runner, jobs, num, Path("log"), devices, lambda x: ended.append(x.name)
        )
    return code, Path("events").read_text().splitlines(), ended


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def most_at_once(events) -> int:
    """The greatest number of jobs between their beginning and their end."""
    now = most = 0
    for event in events:
        now += 1 if event[0] == "+" else -1
        most = max(most, now)
    return most


def test_a_job_begins_when_what_it_needs_has_ended_and_no_earlier():
    jobs = [
        job("rest1", needs=("stage1",)),
        job("rest2", needs=("stage1", "teacher")),
        job("stage1", needs=("data",)),
        job("data"),
        job("teacher", needs=("data", "done before")),
    ]
    for num in (1, 2, 3):
        Path("events").write_text("")
        code, events, ended = run(jobs, num)
        assert code == 0 and sorted(ended) == sorted(x.name for x in jobs)
        for x in jobs:
            for needed in set(x.needs) - {"done before"}:
                assert events.index(f"- {needed}") < events.index(f"+ {x.name}")
        assert most_at_once(events) == min(num, 2)


def test_jobs_of_one_word_run_one_at_a_time():
    jobs = [job(f"a{i}", alone="data") for i in range(3)] + [job("b"), job("c")]
    _, events, _ = run(jobs, 3)
    assert most_at_once(events) == 3
    assert most_at_once([x for x in events if x[2] == "a"]) == 1


def test_a_failure_stops_what_needs_it_and_nothing_else(capfd):
    # The good one gets the place of the bad one, so the bad one ended first.
    after_bad = "until grep -q good events; do sleep 0.1; done"
    jobs = [
        job("bad", "echo the reason; exit 4"),
        job("lost", needs=("bad",)),
        job("lost too", needs=("lost",)),
        job("killed", f"{after_bad}; kill -9 $$"),
        job("good", "sleep 1"),
        job("good too", needs=("good",)),
    ]
    code, events, ended = run(jobs, 2)
    assert code == 4 and ended == ["good", "good too"]
    assert not any("lost" in x for x in events)
    out = capfd.readouterr().out
    assert (
        "failed (exit code 4): job bad; the end of log/bad.log:\n    the reason" in out
    )
    assert "failed (exit code 137): job killed" in out
    assert "left out: job lost, for this failed: job bad" in out
    assert "Not finished: job bad; job " in out.splitlines()[-1]


def test_each_place_has_devices_of_its_own_which_the_next_job_gets(folder):
    script = "echo ${CUDA_VISIBLE_DEVICES} >> devices_$0; sleep 0.5"
    jobs = [
        Job(f"j{i}", "j", ("bash", "-c", f"echo + >> events; {script}", f"{i}"))
        for i in range(4)
    ]
    run(jobs, 2, ["3,4", "GPU-x"])
    found = [(folder / f"devices_{i}").read_text().strip() for i in range(4)]
    assert sorted(found[:2]) == sorted(found[2:]) == ["3,4", "GPU-x"]


def test_logs_go_on_where_they_were(folder):
    for _ in range(2):
        run([job("a", "echo out; echo err >&2")], 2)
    assert (folder / "log/a.log").read_text().split() == ["out", "err"] * 2


def test_after_each_other_the_first_failure_is_the_end(capfd):
    ended = []
    jobs = [job("a"), job("b", "exit 5"), job("c")]
    with Runner() as runner:
        assert run_in_order(runner, jobs, lambda x: ended.append(x.name)) == 5
    assert ended == ["a"]
    assert Path("events").read_text().splitlines() == ["+ a", "- a", "+ b"]
    out = capfd.readouterr().out
    assert "======== job a ========" in out and "job c" not in out


ENDLESS = """
import sys
from pathlib import Path
from espnet_mtkd.ladder.jobs import Job
from espnet_mtkd.ladder.schedule import Ended, Runner, run_beside
script = "trap 'echo asked >> asked; exit 1' INT TERM HUP; sleep 60 & touch {}; wait"
jobs = [Job(x, x, ("bash", "-c", script.format(x))) for x in ("a", "b", "c")]
try:
    with Runner() as runner:
        run_beside(runner, jobs, 2, Path("log"), None, print)
except Ended as e:
    sys.exit(e.code)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_jobs_and_starts_no_other(folder, number):
    env = {**os.environ, "PYTHONPATH": str(builders.ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS], env=env, start_new_session=True
    )
    try:
        for _ in range(300):
            if (folder / "a").exists() and (folder / "b").exists():
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(20) == 128 + number
        assert builders.session_of(process.pid) == []
    finally:
        builders.kill_session(process.pid)
    assert (folder / "asked").read_text().split() == ["asked", "asked"]
    assert not (folder / "c").exists()


def test_the_number_of_jobs_that_is_chosen(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    cpu = ["--ngpu", "0"]
    for words, jobs, rows, expected in (
        (cpu, "", 2, 2),
        (cpu, "", 9, 4),
        (cpu, "7", 2, 7),
        ([], "", 9, 1),  # --ngpu is 1 by default
        ([], "3", 9, 3),
        ([*cpu, "--num_threads", "1"], "", 9, 1),
        ([*cpu, "--dry_run", "true"], "5", 9, 1),
        ([*cpu, "--stop_stage=0"], "", 9, 1),
    ):
        assert choose_number({"jobs": jobs}, words, rows) == expected
    assert threads_of_each(cpu, 2) == 3 and threads_of_each(cpu, 4) == 1
    assert threads_of_each([*cpu, "--num-threads=2"], 4) == 1
    assert threads_of_each([*cpu, "--num_threads", "8"], 2) == 4
