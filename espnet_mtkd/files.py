"""Files that are either whole or not there; their digests, and YAML."""

import argparse
import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import shlex
import shutil
import socket
import time
from pathlib import Path

import yaml

from espnet_mtkd.errors import ConfigError, DiskError, path_error, shown

MAX_NODES = 100_000  # of a YAML file, references counted as what they stand for
PID = re.compile("[0-9]{1,9}")
LEFT_BEHIND = 86_400  # s without a write, after which a temporary file is nobody's


def is_disk_full(error: BaseException | None) -> bool:
    """Whether there was no space, or none that this user may have.

    Args:
        error: or what it was raised from or while handling: of a full disk `torch.save`
            makes an error of its own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False


def temporary_for(path: Path) -> Path:
    """A name beside `path` that no other writer takes, on this host or another."""
    host = _host()
    return path.with_name(
        f".{path.name}.{host}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    )


def _host() -> str:
    return socket.gethostname().split(".")[0] or "localhost"


def sweep(path: Path) -> None:
    """Remove what killed writers of a file or folder left behind.

    That is temporary files and folders of processes of this host that are no more, and,
    of whatever host, those that nobody has written to for a day.

    Args:
        path: what they were to become.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        words = left.name.removeprefix(f".{path.name}.").split(".")
        with contextlib.suppress(FileNotFoundError):  # another one sweeps too
            old = time.time() - left.stat().st_mtime > LEFT_BEHIND
            here = len(words) == 4 and words[0] == _host() and PID.fullmatch(words[1])
            if old or (here and not is_alive(int(words[1]))):
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()


@contextlib.contextmanager
def scratch_folder(path: Path):
    """A folder beside `path` to make it in; removed when the block ends.

    What killed processes left of such folders is swept.

    Args:
        path: what is to be made; its folder is there.
    """
    sweep(path)
    folder = temporary_for(path)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def own_name() -> str:
    """Who writes here, for somebody who wants to: host, process, and since when."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"host {_host()}, pid {os.getpid()}, since {now}"


def is_alive(pid: int) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Let what was renamed in a folder survive a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def written_atomically(path: Path, num_bytes: int | None = None):
    """A file to write into, which takes its name when the block ends without an error.

    So `path` is, even after a power cut, either whole or as it was before.

    Args:
        path: of the file.
        num_bytes: that it will have, for the message.

    Raises:
        DiskError: no space, or a folder in which nothing can be written; what was
            written of it is removed.
    """
    temporary = temporary_for(path)
    try:
        sweep(path)
        with open(temporary, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except Exception as e:
        if is_disk_full(e):
            size = "" if num_bytes is None else f" ({num_bytes / 1e6:.0f} MB)"
            raise DiskError(
                f"no space left for {path}{size}: free some and run the same command "
                "again; it goes on from what is whole"
            ) from e
        is_ours = isinstance(e, OSError) and str(e.filename) == str(temporary)
        known = path_error(e, path) if is_ours else None
        if known is not None:
            raise known from e
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file; see `written_atomically`."""
    with written_atomically(path, len(data)) as f:
        f.write(data)


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
        return yaml.load(content, Loader=_BoundedLoader)
    except UnicodeDecodeError as e:
        raise ConfigError(
            f"{where}: not valid YAML: not UTF-8 ({e.reason} at byte {e.start}): "
            f"convert it, if it is Latin-1: {to_utf8(where)}"
        ) from e
    except Exception as e:  # of `!!bool x` a KeyError, of `!!int ""` an IndexError
        reason = str(e) if isinstance(e, (yaml.YAMLError, ValueError)) else repr(e)
        raise ConfigError(f"{where}: not valid YAML: {reason[:500]}") from e


class _BoundedLoader(yaml.SafeLoader):
    """PyYAML's safe loader; what stands for more than `MAX_NODES` nodes is no config.

    Nine lists of nine references to the one before are 400 million items.
    """

    def __init__(self, stream):
        super().__init__(stream)
        self._sizes = {}  # of nodes with a name

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            self._count += self._sizes.get(id(node), 1)
        else:
            begin = self._count
            self._count += 1
            node = super().compose_node(parent, index)
            self._sizes[id(node)] = self._count - begin
        if self._count > MAX_NODES:
            raise yaml.YAMLError(f"its references stand for over {MAX_NODES} values")
        return node

    _count = 0


def read_yaml(path: Path) -> dict:
    """A YAML file with a mapping in it.

    Raises:
        ConfigError: no such file, or something else in it.
    """
    if not path.is_file():
        raise ConfigError(f"no such config: {path}: no such file")
    config = parse_yaml(path.read_bytes(), path)
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a mapping, found {shown(config)}")
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
