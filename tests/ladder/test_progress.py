"""How far jobs beside each other are: what their logs say, and how it is told."""

import os
import pty
import re
import signal
import sys
from pathlib import Path

import builders
import pytest

from espnet_mtkd.ladder import progress
from espnet_mtkd.ladder.jobs import Job
from espnet_mtkd.ladder.progress import Running, one_line
from espnet_mtkd.ladder.schedule import Runner, run_beside

STAGE = "2026-01-02T03:04:05 (stages.sh:262:run_stage) Stage"
NINE = f"{STAGE} 9: pre-training: dump/raw, conf/teachers.yaml -> exp/mtkd_m\n"
EPOCH = "    epoch 8/15, batch 100, about 1 hour, 17 minutes left\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", ""),
        ("2026-01-02T03:04:05 (mtkd.sh:54:main) ./mtkd.sh --x 1\n", ""),
        (NINE, "stage 9, pre-training"),
        (
            NINE + EPOCH + EPOCH.replace("8/", "9/"),
            "epoch 9/15, about 1 h, 17 min left",
        ),
        (f"{NINE}    2 of 8 utterances\nno indent\n", "2 of 8 utterances"),
        (f"{NINE}    40%\x1b[K|##\n", "40%[K|##"),
        # What the next stage has not said yet, the last one's line does not say for it.
        (f"{NINE}{EPOCH}{STAGE} 10: hand-over: x -> y\n", "stage 10, hand-over"),
        (f"{NINE}{EPOCH}{STAGE} 11: x: y: finished before\n", None),
    ],
)
def test_what_a_log_says(text, expected):
    """Of this run alone: the log goes on where the last one ended."""
    log = Path("a.log")
    log.write_bytes(b"\xff" + f"{NINE}    epoch 1/99\n".encode())
    running = Running(Job("a", "conformer: x, seed 0", ()), log)
    with open(log, "a") as file:
        file.write(text)
    if expected is None:
        expected = "epoch 8/15, about 1 h, 17 min left"
    assert running.state() == expected
    assert running.title == "conformer: x"


def test_a_long_log_is_read_from_its_end_and_none_is_no_fault():
    running = Running(Job("a", "a, seed 1", ()), Path("a.log"))
    assert running.state() == "" and running.title == "a, seed 1"
    Path("a.log").write_text(f"{NINE}{'ä' * 100000}\n{EPOCH}")
    assert running.state() == "epoch 8/15, about 1 h, 17 min left"


def test_jobs_share_the_width():
    states = [("conformer: from scratch", "epoch 3/36"), ("stage 1, b", "2 of 8")]
    whole = "conformer: from scratch: epoch 3/36 | stage 1, b: 2 of 8"
    assert one_line(states, 80) == one_line(states, len(whole)) == whole
    assert one_line(states, 51) == "..om scratch: epoch 3/36 | stage 1, b: 2 of 8"
    for width in range(60):
        assert len(one_line(states, width)) <= width
    assert one_line([], 80) == ""


def ignore(job: Job) -> None:
    """What is done where a job has ended well."""


def jobs(*scripts: str) -> list[Job]:
    return [
        Job(name, f"job {name}, seed 0", ("bash", "-c", script))
        for name, script in zip("abc", scripts, strict=False)
    ]


def test_without_a_terminal_there_is_a_line_for_each_job_now_and_then(
    monkeypatch, capfd
):
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.5)
    wait = "until [ -e go ]; do sleep 0.1; done"
    scripts = (f"echo '{EPOCH}'; {wait}", wait, "sleep 3; touch go")
    with Runner() as runner:
        assert run_beside(runner, jobs(*scripts), 3, Path("log"), None, ignore) == 0
    out = capfd.readouterr().out
    assert "(ladder) job a: epoch 8/15, about 1 h, 17 min left\n" in out
    assert "job b: " not in out and "\x1b" not in out and "\r" not in out


def test_lines_do_not_come_often_by_default(capfd):
    with Runner() as runner:
        some = jobs(f"echo '{EPOCH}'; sleep 3")
        assert run_beside(runner, some, 1, Path("log"), None, ignore) == 0
    assert "epoch" not in capfd.readouterr().out


CTRL_C = b"\x03"
IN_TERMINAL = """
import sys
from pathlib import Path
from espnet_mtkd.ladder.jobs import Job
from espnet_mtkd.ladder.schedule import Ended, Runner, run_beside
commands = [("bash", "-c", x) for x in sys.argv[1:]]
jobs = [Job(x, f"job {x}, seed 0", y) for x, y in zip("abc", commands)]
try:
    with Runner() as runner:
        sys.exit(run_beside(runner, jobs, 3, Path("log"), None, lambda _: None))
except Ended as e:
    print(f"Ended by {e}")
    sys.exit(e.code)
"""


def in_terminal(scripts: list[str], once: dict[str, bytes]) -> tuple[int, str]:
    """Exit code and all that is shown; once this is, those keys are pressed, or a file
    is made that scripts may wait for."""
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(PYTHONPATH=str(builders.ROOT), COLUMNS="60")
        os.execv(sys.executable, [sys.executable, "-c", IN_TERMINAL, *scripts])
    shown, waiting = "", dict(once)
    try:
        while True:
            shown += os.read(fd, 1024).decode()
            for text in [x for x in waiting if re.search(x, shown)]:
                what = waiting.pop(text)
                if what == CTRL_C:
                    os.write(fd, what)
                else:
                    Path(what.decode()).touch()
    except OSError:  # its end
        pass
    os.close(fd)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown


def screen(shown: str) -> list[str]:
    """What stands there at the end."""
    lines = [""]
    for part in re.split(r"(\r\n|\r|\x1b\[K)", shown):
        if part == "\r\n":
            lines.append("")
        elif part == "\x1b[K":
            lines[-1] = ""
        elif part != "\r":
            lines[-1] += part
    return lines


def test_a_terminal_has_one_line_that_goes_before_others_come():
    wait = "for i in {{1..300}}; do [ ! -e {} ] || break; sleep 0.1; done"
    both = r"\x1b\[K(\S[^\r\n]* \| job b: 1 of 97[^\r\n]*)\r(?!\n)"
    one = r"\x1b\[K(job a: epoch 8/15, about 1 h, 17 min left)\r(?!\n)"
    code, shown = in_terminal(
        [
            f"echo '{EPOCH}'; {wait.format('one')}",
            f"echo '    1 of 97 utterances'; {wait.format('both')}; exit 4",
            wait.format("one"),
        ],
        {both: b"both", one: b"one"},
    )
    assert code == 4
    line = re.search(both, shown)[1]
    assert "epoch 8/15, about" in line and len(line) < 60  # the terminal's columns
    left = screen(shown)
    assert not any("epoch 8/15" in x for x in left)
    for words in ("failed (exit code 4): job b", "finished: job a"):
        assert any(re.match(rf"\S+ \(ladder\) {re.escape(words)}", x) for x in left)


def test_ctrl_c_ends_all_jobs_and_the_line():
    script = f"trap 'touch asked; exit 1' INT; echo '{EPOCH}'; sleep 60 & wait"
    code, shown = in_terminal([script, "exit 0"], {"epoch 8/15": CTRL_C})
    assert code == 128 + signal.SIGINT and Path("asked").exists()
    assert screen(shown)[-2:] == ["Ended by SIGINT", ""]
