"""Files that are either whole or not there."""

import errno
import os
from pathlib import Path

from espnet_mtkd.errors import DiskError


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is, even after a power cut, either whole or not there.

    Raises:
        DiskError: no space; what was written of it is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskError(
                f"no space left for {path} ({len(data) / 1e6:.0f} MB): free some and "
                "run the same command again; it goes on from what is whole"
            ) from e
        raise
