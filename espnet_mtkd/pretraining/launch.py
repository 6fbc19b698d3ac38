"""Several processes of one of ESPnet's tasks: where one dies, all end, and say why.

ESPnet starts a process for each GPU and, where one ends with an error, raises another
one that knows neither its message nor its exit code.
"""

import contextlib
import json
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from multiprocessing import connection
from pathlib import Path

import espnet2.tasks.abs_task as espnet_task
from torch.multiprocessing.spawn import _prctl_pr_set_pdeathsig

from espnet_mtkd.errors import (
    ERRORS,
    ConfigError,
    MTKDError,
    PreemptedError,
    path_error,
)

FOLDER = "MTKD_ERRORS_OF_CHILDREN"  # environment variable: where they are written
# Of the others, when one has failed: s until they are told to end, and then until they
# are killed. Who waits for the dead one in a collective may not hear that it is told.
ALONE, TOLD = 5.0, 15.0


class ProcessDied(MTKDError):
    """A process of several ended without an error of ours; the exit code is its own."""

    def __init__(self, message: str, exit_code: int = MTKDError.exit_code):
        super().__init__(message)
        self.exit_code = exit_code


class SpawnedErrors:
    """Put before ESPnet's task among the bases of a task."""

    @classmethod
    def main(cls, args=None, cmd=None):
        """As `AbsTask.main`.

        Raises:
            MTKDError: in this process, or first in one that it has started; see
                `ProcessDied`.
        """
        with tempfile.TemporaryDirectory(prefix="mtkd_errors_") as folder:
            before = os.environ.get(FOLDER), espnet_task.ProcessContext
            os.environ[FOLDER] = folder
            espnet_task.ProcessContext = WatchedProcesses
            try:
                super().main(args=args, cmd=cmd)
            except ProcessDied as e:
                # Without one, it has printed a traceback of its own, or could not.
                raise first_error(Path(folder)) or e from None
            finally:
                if before[0] is None:
                    del os.environ[FOLDER]
                else:
                    os.environ[FOLDER] = before[0]
                espnet_task.ProcessContext = before[1]

    @classmethod
    def main_worker(cls, args):
        """As `AbsTask.main_worker`; where it was started for a GPU, errors are kept.

        Raises:
            ConfigError: one process for several GPUs.
        """
        if multiprocessing.parent_process() is not None:
            _prctl_pr_set_pdeathsig(signal.SIGTERM)  # nobody outlives who waits for it
        try:
            check_one_gpu(args)
            try:
                super().main_worker(args)
            except OSError as e:
                known = path_error(e)
                if known is None:
                    raise
                raise known from e
        except MTKDError as e:
            folder = os.environ.get(FOLDER)
            if multiprocessing.parent_process() is None or not folder:
                raise
            keep_error(Path(folder), e)
            if isinstance(e, PreemptedError):  # all of them are at this point
                sys.exit(e.exit_code)
            end_at_once(e.exit_code)
        except Exception:
            if multiprocessing.parent_process() is None:
                raise
            traceback.print_exc()
            end_at_once(1)


def end_at_once(code: int) -> None:
    """End this process: what Python does at an end may wait for the other processes."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def check_one_gpu(args) -> None:
    """Refuse `DataParallel`, which copies neither utterance ids nor teachers rightly.

    Args:
        args: ESPnet's, as `main_worker` gets them.

    Raises:
        ConfigError: one process for several GPUs.
    """
    if args.ngpu > 1 and not args.distributed:
        raise ConfigError(
            f"--ngpu {args.ngpu}: expected a process for each GPU, found one for all: "
            "give --multiprocessing_distributed true, or --ngpu 1"
        )


def keep_error(folder: Path, error: MTKDError) -> None:
    """Write an error for the process that started this one."""
    content = json.dumps([type(error).__name__, str(error)])
    temporary = folder / f".{os.getpid()}"
    temporary.write_text(content, encoding="utf-8")
    temporary.rename(folder / f"{os.getpid()}.json")


def first_error(folder: Path) -> MTKDError | None:
    """The earliest error that a process has kept, None if none has.

    One that was told to end, and did, comes behind all others.
    """
    files = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    kinds = {kind.__name__: kind for kind in ERRORS}
    errors = []
    for path in files:
        name, message = json.loads(path.read_text(encoding="utf-8"))
        errors.append(kinds.get(name, MTKDError)(message))
    errors.sort(key=lambda e: isinstance(e, PreemptedError))
    return errors[0] if errors else None


class WatchedProcesses:
    """Stands in for torch's `ProcessContext`, with which ESPnet waits for processes.

    SIGTERM goes on to them, each of which saves then what it has to.

    Args:
        processes: started, rank by rank.
        error_files: of torch's, not used.
    """

    def __init__(self, processes, error_files=None):
        self.processes = processes

    def join(self) -> bool:
        """Wait for all of them; none is left afterwards.

        Raises:
            ProcessDied: one of them failed.
        """
        try:
            with self._sigterm_goes_on():
                self._wait(is_enough=self._failed)
                codes = self._failed().values()
                if codes:
                    # Some end by themselves, and who saves is not disturbed.
                    is_saving = PreemptedError.exit_code in codes
                    self._wait(None if is_saving else ALONE)
                failed = self._failed()
        finally:
            self._end()
        if not failed:
            return True
        # Those who have lost the others end with 1 too.
        rank = max(failed, key=lambda i: (failed[i] < 0, failed[i] != 1))
        code = failed[rank]
        how = f"ended with exit code {code}"
        if code < 0:
            how = f"was killed by signal {-code} ({signal.strsignal(-code)})"
        raise ProcessDied(
            f"process {rank} of {len(self.processes)} {how}, and the others were "
            "ended: what it said stands above; the memory of the machine may have been "
            "full: run the same command again to go on from the last save",
            code if code > 0 else 128 - code,
        )

    def _failed(self) -> dict[int, int]:
        """Rank -> exit code, negative for a signal, of those that failed."""
        return {i: p.exitcode for i, p in enumerate(self.processes) if p.exitcode}

    def _alive(self) -> list:
        return [p for p in self.processes if p.exitcode is None]

    def _wait(self, seconds: float | None = None, is_enough=lambda: False) -> None:
        """Until all are over, or it is enough, or the time has passed."""
        end = None if seconds is None else time.monotonic() + seconds
        while (alive := self._alive()) and not is_enough():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return
            connection.wait([p.sentinel for p in alive], left)

    def _end(self) -> None:
        for process in self._alive():
            process.terminate()
        self._wait(TOLD)
        for process in self._alive():
            process.kill()
        self._wait(TOLD)

    @contextlib.contextmanager
    def _sigterm_goes_on(self):
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def tell(*_):
            for process in self._alive():
                process.terminate()

        before = signal.signal(signal.SIGTERM, tell)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)
