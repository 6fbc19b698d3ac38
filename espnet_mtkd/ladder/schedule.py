"""Runs of mtkd.sh, after each other or beside each other, and how they are ended."""

import datetime
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from espnet_mtkd.ladder.jobs import Job
from espnet_mtkd.ladder.progress import Progress, Running

POLL_SECONDS = 0.1
GRACE_SECONDS = 15.0  # mtkd.sh gives what it started five
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def say(text: str) -> None:
    """A line with the time, as the scripts' own."""
    now = datetime.datetime.now().isoformat(timespec="seconds")
    print(f"{now} (ladder) {text}", flush=True)


class Ended(Exception):
    """A signal came; all children are gone.

    Attributes:
        code: to exit with.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Runner:
    """Starts processes in groups of their own; a signal to this process ends them all.

    Use it as a context: it takes the signals, and leaves no child behind.
    """

    def __init__(self):
        self._children: list[subprocess.Popen] = []
        self._signal = 0

    def __enter__(self):
        self._old = {x: signal.signal(x, self._note) for x in SIGNALS}
        return self

    def __exit__(self, *_):
        self._end_all(signal.SIGTERM)
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self._signal = number

    def start(self, command: Sequence[str], log: Path | None = None, **env: str):
        """Start a command; its output goes to this process's, or behind a log's end."""
        environment = {**os.environ, **env}
        if log is None:
            child = self._open(command, environment, None)
        else:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a") as file:
                child = self._open(command, environment, file)
        self._children.append(child)
        return child

    def _open(self, command, environment, file) -> subprocess.Popen:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=None if file is None else subprocess.STDOUT,
            process_group=0,
        )

    def wait_for_any(
        self,
        children: Sequence[subprocess.Popen],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Until one of them has ended.

        Args:
            children: they.
            meanwhile: called again and again.

        Raises:
            Ended: a signal came meanwhile.
        """
        while True:
            if self._signal:
                number = self._signal
                self._end_all(number)
                raise Ended(number)
            if any(child.poll() is not None for child in children):
                break
            meanwhile()
            time.sleep(POLL_SECONDS)
        for child in children:
            if child.poll() is not None and child in self._children:
                self._children.remove(child)
                _signal_group(child, signal.SIGTERM)  # a watcher's sleep, say

    def run(self, command: Sequence[str], log: Path | None = None, **env: str) -> int:
        """Run a command to its end; its exit code."""
        child = self.start(command, log, **env)
        self.wait_for_any([child])
        return _code(child)

    def _end_all(self, number: int) -> None:
        for child in self._children:
            _signal_group(child, number)
        end = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < end:
            if all(child.poll() is not None for child in self._children):
                break
            time.sleep(POLL_SECONDS)
        for child in self._children:
            _signal_group(child, signal.SIGKILL)
            child.wait()
        self._children.clear()


def _signal_group(child: subprocess.Popen, number: int) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        pass


def _code(child: subprocess.Popen) -> int:
    code = child.returncode
    return 128 - code if code < 0 else code  # as a shell has it


def run_in_order(
    runner: Runner, jobs: Sequence[Job], on_end: Callable[[Job], None]
) -> int:
    """One job after the other, all output to this process's.

    Returns:
        0, or the exit code of the first that fails, which ends it.
    """
    for job in jobs:
        say(f"======== {job.title} ========")
        code = runner.run(job.command)
        if code:
            return code
        on_end(job)
    return 0


def run_beside(
    runner: Runner,
    jobs: Sequence[Job],
    num: int,
    logs: Path,
    devices: Sequence[str] | None,
    on_end: Callable[[Job], None],
) -> int:
    """So many jobs at a time, those first that stand first, as soon as they may.

    A job that fails stops no other, but those that need it are left out.

    Args:
        runner: what starts them.
        jobs: what they need is among them, or not there, and then done.
        num: at a time.
        logs: folder of their logs, `<name>.log`.
        devices: CUDA_VISIBLE_DEVICES of each of the `num` places; None: as it is.
        on_end: called for each that ended well, after the next were started.

    Returns:
        0, or the exit code of the first that failed.
    """
    waiting = list(jobs)
    names = {job.name for job in jobs}
    done: set[str] = set()
    lost: dict[str, str] = {}  # failed or left out -> title
    running: dict[int, tuple[Job, subprocess.Popen, float]] = {}  # place -> ...
    states: dict[int, Running] = {}
    progress = Progress()

    def tell():
        for line in progress.tell([states[place] for place in running]):
            say(line)

    ended: list[Job] = []
    first_code = 0
    while waiting or running:
        for job in list(waiting):
            missing = [x for x in job.needs if x in lost]
            if missing:
                waiting.remove(job)
                lost[job.name] = job.title
                say(f"left out: {job.title}, for this failed: {lost[missing[0]]}")
                continue
            places = [i for i in range(num) if i not in running]
            busy = {x.alone for x, _, _ in running.values()} - {""}
            if not places or job.alone in busy:
                continue
            if all(x in done or x not in names for x in job.needs):
                waiting.remove(job)
                log = logs / f"{job.name}.log"
                place = places[0]
                say(f"started: {job.title} -> {log}")
                env = {"CUDA_VISIBLE_DEVICES": devices[place]} if devices else {}
                states[place] = Running(job, log)
                child = runner.start(job.command, log, **env)
                running[place] = (job, child, time.monotonic())
        while ended:
            on_end(ended.pop(0))
        if not running:
            continue  # what is left is left out
        try:
            runner.wait_for_any([child for _, child, _ in running.values()], tell)
        finally:
            progress.clear()
        for place, (job, child, begin) in list(running.items()):
            if child.poll() is None:
                continue
            del running[place]
            code = _code(child)
            if code == 0:
                say(f"finished: {job.title}, {time.monotonic() - begin:.0f} s")
                done.add(job.name)
                ended.append(job)
            else:
                first_code = first_code or code
                lost[job.name] = job.title
                log = logs / f"{job.name}.log"
                say(f"failed (exit code {code}): {job.title}; the end of {log}:")
                print(_tail(log), flush=True)
    while ended:
        on_end(ended.pop(0))
    if lost:
        say(f"Not finished: {'; '.join(lost.values())}")
    return first_code


def _tail(log: Path, num_lines: int = 15) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-num_lines:])
