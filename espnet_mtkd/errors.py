"""Errors that a user can act on, each with the exit code the command ends with.

`ERRORS` is the table: of each class the name, the exit code and, as its docstring, the
meaning. `HELP` is the page that says what to do.
"""

import difflib
import errno
import functools
import logging
import os
import reprlib
import sys
from collections.abc import Collection, Sequence

HELP = "docs/troubleshooting.md"  # has a section for each exit code


class MTKDError(Exception):
    """Base class: the message says what was expected, found, where, and what to do."""

    exit_code = 1


ERRORS: list[type[MTKDError]] = []


def _error(name: str, exit_code: int, meaning: str) -> type[MTKDError]:
    """A row of the table: a class of that name, which this module must have too."""
    fields = {"__module__": __name__, "__doc__": meaning, "exit_code": exit_code}
    ERRORS.append(type(name, (MTKDError,), fields))
    return ERRORS[-1]


ConfigError = _error(
    "ConfigError", 2, "A flag, a config key or a teacher's name is wrong."
)
NonFiniteError = _error(
    "NonFiniteError", 3, "Too many steps, or a validation loss, were not finite."
)
DataError = _error(
    "DataError", 4, "Audio, lengths or data directories are not what training needs."
)
TargetStoreError = _error(
    "TargetStoreError",
    5,
    "Stored targets are missing, damaged, or of another teacher or audio.",
)
DiskError = _error(
    "DiskError", 6, "No disk space, or a path that the system does not let us use."
)
HubError = _error(
    "HubError", 7, "The Hugging Face Hub refused an upload, or cannot be reached."
)
PreemptedError = _error(
    "PreemptedError",
    8,
    "The training was told to end (SIGTERM) and has saved: run it again to go on.",
)


def name_ten(items: Sequence[str]) -> str:
    """The first ten of them, for a message, and how many more there are."""
    shown = ", ".join(items[:10])
    return shown + (f", and {len(items) - 10} more" if len(items) > 10 else "")


def shown(value) -> str:
    """A value for a message, shortened: `repr` of one with references may not end."""
    try:
        return _SHOWN.repr(value)
    except ValueError:  # of a number of more than 4300 digits
        return f"a long {type(value).__name__}"


_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring = 3, 80


def unknown_key(where: str, key, known: Collection[str]) -> str:
    """What to say of a key that a config may not have: the closest one, and all.

    Args:
        where: it stands.
        key: that was found.
        known: keys that it may have.
    """
    key = key if isinstance(key, str) else shown(key)
    hint = difflib.get_close_matches(key, known, n=1)
    hint = f", did you mean '{hint[0]}'?" if hint else ""
    return f"{where}: unknown key '{key[:80]}'{hint} (known: {', '.join(known)})"


# What a file system says of a path; all but these are faults of a program.
_OF_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO),
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.EFBIG, errno.ESTALE, errno.ENXIO, errno.ENODEV),
}


def path_error(error: OSError, path=None) -> DiskError | None:
    """What the file system refuses, as an error with an exit code.

    Args:
        error: of the operating system.
        path: that is meant; None: the one that the error names.

    Returns:
        None where it is no matter of a path.
    """
    path = path or error.filename2 or error.filename
    if error.errno not in _OF_PATHS or (path is None and error.errno == errno.ENOENT):
        return None
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    return DiskError(
        f"{'a file' if path is None else path}: cannot be read or written "
        f"({error.strerror}): give its folder the permission (chmod u+rwX) or the "
        "space, or name another path"
    )


def report_errors(main):
    """Decorator for `main()`: an MTKDError ends it with its message and exit code.

    So does what the file system says of a path; `--log_level DEBUG`, where a command
    has it, shows from where.
    """

    @functools.wraps(main)
    def wrapper(*args, **kwargs):
        try:
            try:
                return main(*args, **kwargs)
            except OSError as e:
                known = path_error(e)
                if known is None:
                    raise
                logging.debug("where it came from:", exc_info=True)
                raise known from e
        except MTKDError as e:
            print(f"error: {e}", file=sys.stderr)
            print(f"see {HELP} (exit code {e.exit_code})", file=sys.stderr)
            sys.exit(e.exit_code)

    return wrapper
