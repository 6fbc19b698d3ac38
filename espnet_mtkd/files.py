"""Files that are either whole or not there; their digests, and YAML."""

import argparse
import errno
import hashlib
import os
import shlex
from pathlib import Path

import yaml

from espnet_mtkd.errors import ConfigError, DiskError


def is_disk_full(error: OSError) -> bool:
    """Whether there was no space, or none that this user may have."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


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
        if is_disk_full(e):
            raise DiskError(
                f"no space left for {path} ({len(data) / 1e6:.0f} MB): free some and "
                "run the same command again; it goes on from what is whole"
            ) from e
        raise


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def to_utf8(path: Path) -> str:
    """The shell command that writes a file in Latin-1 anew, in UTF-8."""
    old, new = shlex.quote(str(path)), shlex.quote(f"{path}.utf8")
    return f"iconv -f ISO-8859-1 -t UTF-8 {old} > {new} && mv {new} {old}"


def parse_yaml(content: bytes | str, where):
    """What stands in YAML.

    Args:
        content: of a file, in UTF-8, or text.
        where: it is from, for the message.

    Raises:
        ConfigError: no UTF-8, or no YAML.
    """
    try:
        if isinstance(content, bytes):
            content = content.decode("utf-8")
        return yaml.safe_load(content)
    except UnicodeDecodeError as e:
        raise ConfigError(
            f"{where}: not valid YAML: not UTF-8 ({e.reason} at byte {e.start}): "
            f"convert it, if it is Latin-1: {to_utf8(where)}"
        ) from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:  # 2001-99-99 is a value
        raise ConfigError(f"{where}: not valid YAML: {e}") from e


def read_yaml(path: Path) -> dict:
    """A YAML file with a mapping in it.

    Raises:
        ConfigError: no such file, or something else in it.
    """
    if not path.is_file():
        raise ConfigError(f"no such config: {path}: no such file")
    config = parse_yaml(path.read_bytes(), path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a mapping, found {config!r:.80}")
    return config


def check_config_option(cmd: list[str]) -> None:
    """Read the file of `--config`, where ESPnet would end with a traceback.

    Args:
        cmd: command line of one of ESPnet's tasks.

    Raises:
        ConfigError: see `read_yaml`.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path)
    config = parser.parse_known_args(cmd)[0].config
    if config is not None:
        read_yaml(config)
