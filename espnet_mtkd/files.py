"""Files that are either whole or not there; their digests, and YAML."""

import errno
import hashlib
import os
from pathlib import Path

import yaml

from espnet_mtkd.errors import ConfigError, DiskError


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


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def read_yaml(path: Path) -> dict:
    """A YAML file with a mapping in it.

    Raises:
        ConfigError: no such file, or something else in it.
    """
    if not path.is_file():
        raise ConfigError(f"no such config: {path}: no such file")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not valid YAML: {e}") from e
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a mapping, found {config!r:.80}")
    return config
