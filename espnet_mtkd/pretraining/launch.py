"""Several processes of one of ESPnet's tasks: what one of them says reaches the user.

ESPnet starts a process for each GPU and, where one ends with an error, raises another
one that knows neither its message nor its exit code.
"""

import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

from torch.multiprocessing import ProcessExitedException

from espnet_mtkd.errors import ERRORS, ConfigError, MTKDError, path_error

FOLDER = "MTKD_ERRORS_OF_CHILDREN"  # environment variable: where they are written


class SpawnedErrors:
    """Put before ESPnet's task among the bases of a task."""

    @classmethod
    def main(cls, args=None, cmd=None):
        """As `AbsTask.main`.

        Raises:
            MTKDError: in this process, or first in one that it has started.
        """
        with tempfile.TemporaryDirectory(prefix="mtkd_errors_") as folder:
            before = os.environ.get(FOLDER)
            os.environ[FOLDER] = folder
            try:
                super().main(args=args, cmd=cmd)
            except ProcessExitedException:
                error = first_error(Path(folder))
                if error is None:  # it has printed a traceback of its own
                    raise
                raise error from None
            finally:
                if before is None:
                    del os.environ[FOLDER]
                else:
                    os.environ[FOLDER] = before

    @classmethod
    def main_worker(cls, args):
        """As `AbsTask.main_worker`; where it was started for a GPU, errors are kept.

        Raises:
            ConfigError: one process for several GPUs.
        """
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
            sys.exit(e.exit_code)


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
    """The earliest error that a process has kept, None if none has."""
    files = sorted(folder.glob("*.json"), key=lambda p: p.stat().st_mtime_ns)
    if not files:
        return None
    name, message = json.loads(files[0].read_text(encoding="utf-8"))
    kinds = {kind.__name__: kind for kind in ERRORS}
    return kinds.get(name, MTKDError)(message)
