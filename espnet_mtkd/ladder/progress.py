"""How far jobs are, by the ends of their logs."""

import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from espnet_mtkd.ladder.jobs import Job

TERMINAL_SECONDS = 2.0
LOG_SECONDS = 300.0  # the jobs' own logs have a line every 30 s
TAIL_BYTES = 1 << 16
CLEAR = "\r\x1b[K"
STAGE = re.compile(r"\S+ \(\S+:run_stage\) Stage (\d+): ([^:]*)(.*)")
DONE = ": finished before"  # a line of a stage that has nothing to do


class Running:
    """A job that runs.

    Args:
        job: it.
        log: its log, of which what is there already is an earlier run's.
    """

    def __init__(self, job: Job, log: Path):
        self.title = job.title.removesuffix(", seed 0")
        self._log = log
        self._begin = log.stat().st_size if log.exists() else 0

    def state(self) -> str:
        """How far its stage is; which it is, where that says nothing; or nothing."""
        try:
            with open(self._log, "rb") as file:
                end = file.seek(0, 2)
                file.seek(max(self._begin, end - TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:  # not there yet
            return ""
        state = ""
        for line in text.split("\n"):
            stage = STAGE.match(line)
            if stage and not stage[3].endswith(DONE):
                state = f"stage {stage[1]}, {stage[2]}"
            elif re.match(r" {4}\S", line):  # as `watched` in stages.sh shows it
                state = _brief(line)
        return "".join(x for x in state if x.isprintable())


def _brief(line: str) -> str:
    """A line of `with_progress` in stages.sh, shorter."""
    line = re.sub(r"^(epoch \d+/\d+), batch \d+", r"\1", line.strip())
    if line.startswith("epoch "):
        line = re.sub(r" minutes?\b", " min", line)
        line = re.sub(r" seconds?\b", " s", re.sub(r" hours?\b", " h", line))
    return line


class Progress:
    """Tells how far jobs are: in a terminal by one line that changes, else by lines.

    Args:
        out: where to (default: standard output).
        every: seconds between two looks (default: two in a terminal, else 300).
    """

    def __init__(self, out: TextIO | None = None, every: float | None = None):
        self._out = out or sys.stdout
        self._is_terminal = self._out.isatty()
        if every is None:
            every = TERMINAL_SECONDS if self._is_terminal else LOG_SECONDS
        self._every = every
        self._last = time.monotonic()
        self._shown = ""

    def tell(self, running: Sequence[Running]) -> list[str]:
        """Show it, when it is time.

        Returns:
            Lines to be logged; in a terminal none.
        """
        now = time.monotonic()
        if now < self._last + self._every:
            return []
        self._last = now
        states = [(x.title, state) for x in running if (state := x.state())]
        if not self._is_terminal:
            return [f"{title}: {state}" for title, state in states]
        line = one_line(states, shutil.get_terminal_size().columns - 1)
        if line != self._shown:
            self._out.write(f"{CLEAR}{line}\r")
            self._out.flush()
            self._shown = line
        return []

    def clear(self) -> None:
        """Leave the terminal's line empty, for what else is to be said."""
        if self._shown:
            self._out.write(CLEAR)
            self._out.flush()
            self._shown = ""


def one_line(states: Sequence[tuple[str, str]], width: int) -> str:
    """Titles and states beside each other.

    Where they are too long, each has the same room, and of a title its end is left,
    which tells it from others.
    """
    line = " | ".join(f"{title}: {state}" for title, state in states)
    if len(line) <= width:
        return line
    room = (width + 3) // len(states) - 3
    parts = []
    for title, state in states:
        left = max(room - len(state) - 2, 6)
        if len(title) > left:
            title = ".." + title[len(title) - left + 2 :]
        parts.append(f"{title}: {state}"[: max(room, 0)])
    return " | ".join(parts)[: max(width, 0)]
