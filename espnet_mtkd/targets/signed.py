"""JSON files whose first member is the sha256 of all that follows it."""

import hashlib
import json
from pathlib import Path

from espnet_mtkd.errors import TargetStoreError

AGAIN = "mtkd_extract, or mtkd.sh --stage 8; paths: mtkd_extract_paths, or --stage 11"
REMEDY_OF_FILE = f"remove that file and extract again ({AGAIN}); the rest stands"


def dump_signed(body: dict) -> bytes:
    """The bytes of such a file, a line for each member of `body`."""
    lines = [
        f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}"
        for key, value in body.items()
    ]
    rest = (",\n".join(lines) + "}\n").encode()
    digest = hashlib.sha256(rest).hexdigest()
    return f'{{"sha256":"{digest}",\n'.encode() + rest


def read_signed(path: Path) -> dict:
    """What `dump_signed` was given.

    Raises:
        TargetStoreError: any byte of the file is another, or it is no JSON.
    """
    first, _, rest = path.read_bytes().partition(b"\n")
    digest = hashlib.sha256(rest).hexdigest()
    if first != f'{{"sha256":"{digest}",'.encode():
        raise TargetStoreError(
            f"{path}: damaged (its sha256 differs): {REMEDY_OF_FILE}"
        )
    try:
        return json.loads(b"{" + rest)
    except (ValueError, RecursionError) as e:
        raise TargetStoreError(f"{path}: no JSON ({e}): {REMEDY_OF_FILE}") from e
