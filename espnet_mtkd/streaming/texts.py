"""A Kaldi `text` that grows while utterances are decoded."""

import errno
import os
from pathlib import Path

from espnet_mtkd.errors import ConfigError, DiskError
from espnet_mtkd.files import is_disk_full, write_atomically


class TextFile:
    """'<utterance> <text>' lines, each written as a whole as soon as it is known.

    Args:
        path: folders are made. Lines of an earlier run are dropped with the first new
            one, or kept.
        keep: whether they are kept; a last line without its end is dropped.

    Attributes:
        lines: utterance -> line.

    Raises:
        ConfigError: it cannot be written there.
    """

    def __init__(self, path: Path, keep: bool):
        self.path, self.keep = path, keep
        self.lines: dict[str, str] = {}
        self._file = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab"):  # tells early whether it can be written
                pass
            old = path.read_text(encoding="utf-8").splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"--out {path}: cannot be written: {e}") from e
        self.num_found = len(old)
        for line in old if keep else []:
            if line.endswith("\n") and line.strip():
                self.lines[line.split(maxsplit=1)[0]] = line

    def add(self, utt: str, text: str) -> None:
        """Write a line.

        Raises:
            DiskError: no space; the file ends with the line before.
        """
        line = f"{utt} {text}".rstrip() + "\n"
        if self._file is None:
            write_atomically(self.path, "".join(self.lines.values()).encode())
            self._file = open(self.path, "ab", buffering=0)
        data, begin = line.encode(), self._file.tell()
        try:
            if self._file.write(data) < len(data):
                raise OSError(errno.ENOSPC, "no space left on device")
        except OSError as e:
            os.ftruncate(self._file.fileno(), begin)
            if is_disk_full(e):
                raise DiskError(
                    f"no space left for {self.path}: free some and run the command "
                    "with --resume; what is written stands"
                ) from e
            raise
        self.lines[utt] = line

    def finish(self, utts: list[str]) -> None:
        """Put the lines into the order of `utts`; the file is whole at each moment."""
        if self._file is not None:
            self._file.close()
        lines = [self.lines[utt] for utt in utts if utt in self.lines]
        write_atomically(self.path, "".join(lines).encode())
