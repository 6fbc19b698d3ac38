"""Audio files that end too early: libsndfile takes what is left for the whole."""

import struct
from pathlib import Path

RIFF_UNKNOWN = (0, 0xFFFFFFFF)  # sizes that a writer to a pipe leaves
OGG_PAGE = 65307  # bytes at most
OGG_LAST = 4  # flag of a stream's last page


def find_cut(path: Path) -> str | None:
    """What a WAV or Ogg file lacks at its end; None where nothing is known to be.

    Args:
        path: of an audio file, of any kind.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] in (b"RIFF", b"RIFX") and head[8:12] == b"WAVE":
            order = "<" if head[:4] == b"RIFF" else ">"
            return _cut_riff(file, order, path.stat().st_size)
        if head[:4] == b"OggS":
            return _cut_ogg(file, path.stat().st_size)
    return None


def _cut_riff(file, order: str, size: int) -> str | None:
    """Whether the `data` chunk is longer than the file (RIFF: size after each name)."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        name, length = struct.unpack(f"{order}4sI", file.read(8))
        if name == b"data":
            found = size - position - 8
            if length in RIFF_UNKNOWN or length <= found:
                return None
            return f"cut: its header says {length} bytes of samples, found {found}"
        position += 8 + length + length % 2
    return "cut: it has no samples (no data chunk)"


def _cut_ogg(file, size: int) -> str | None:
    """Whether the last page is whole and marked as the last (RFC 3533)."""
    file.seek(max(0, size - 2 * OGG_PAGE))
    tail = file.read()
    begin = tail.rfind(b"OggS")
    page = tail[begin:]
    is_whole = False
    if len(page) >= 27:
        table = page[27 : 27 + page[26]]
        is_whole = len(table) == page[26] and len(page) >= 27 + len(table) + sum(table)
    if not is_whole:
        return "cut: its last page is not whole"
    if not page[5] & OGG_LAST:
        return "cut: it ends without a last page"
    return None
