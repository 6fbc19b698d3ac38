"""Errors that a user can act on, each with the exit code the command ends with.

Exit codes: 2 usage or config, 3 non-finite training, 4 data, 5 target store, 6 disk,
7 hub.
"""

import functools
import sys

HELP = "docs/troubleshooting.md"


class MTKDError(Exception):
    """Base class: the message says what was expected, found, where, and what to do."""

    exit_code = 1


class ConfigError(MTKDError):
    """A flag, a config key or a teacher's name is wrong."""

    exit_code = 2


class NonFiniteError(MTKDError):
    """Training produced no usable update in a whole epoch."""

    exit_code = 3


class DataError(MTKDError):
    """Audio, lengths or data directories are not what training needs."""

    exit_code = 4


class TargetStoreError(MTKDError):
    """Stored targets are missing, damaged, or of another teacher or audio."""

    exit_code = 5


class DiskError(MTKDError):
    """Too little disk space, or a write that failed for that reason."""

    exit_code = 6


class HubError(MTKDError):
    """The Hugging Face Hub refused an upload, or cannot be reached."""

    exit_code = 7


def report_errors(main):
    """Decorator for `main()`: an MTKDError ends it with its message and exit code."""

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except MTKDError as e:
            print(f"error: {e}", file=sys.stderr)
            print(f"see {HELP} (exit code {e.exit_code})", file=sys.stderr)
            sys.exit(e.exit_code)

    return wrapper
