"""What a file tells of the machine that it was made on."""

import getpass
import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

# Two parts at least: "/ %" and "WER/CER" are no paths, nor is what follows "https:".
ABSOLUTE_PATH = re.compile(r"(?:(?<=file://)|(?<![\w.:/~$-]))(?:/[\w.+@-]+){2,}")
# Accounts that tell nothing of a person.
ANONYMOUS = {"root", "user", "admin", "ubuntu", "debian", "runner", "nobody"}
TEXT = {".yaml", ".yml", ".md", ".txt", ".json", ".log", ".csv", ".tsv", ""}
WEIGHTS = {".pth", ".safetensors"}  # tensors, and names of parameters
MIN_BYTES = 5  # a shorter name occurs in compressed data by chance


def local_names() -> dict[str, str]:
    """User and host name of this machine, where they tell something: name -> what."""
    names = {socket.gethostname(): "host name"}
    try:
        names[getpass.getuser()] = "user name"
    except (OSError, KeyError, ImportError):  # an account without a name
        pass
    return {
        name: what
        for name, what in names.items()
        if len(name) > 2 and name not in ANONYMOUS and name != "localhost"
    }


def scalars(value, where: str = "") -> Iterator[tuple[str, str]]:
    """(key, string) of each string in a config; token lists are left out."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key != "token_list":
                yield from scalars(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from scalars(item, where)
    elif isinstance(value, str):
        yield where, value


def _in_text(text: str, names: dict[str, str]) -> Iterator[str]:
    for match in ABSOLUTE_PATH.finditer(text):
        yield f"the absolute path {match[0]}"
    for name, what in names.items():
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text):
            yield f"this machine's {what} '{name}'"


def _in_file(path: Path, names: dict[str, str]) -> Iterator[str]:
    if path.suffix in WEIGHTS:
        return
    data = path.read_bytes()
    if path.suffix in (".yaml", ".yml"):
        for key, value in scalars(yaml.safe_load(data)):
            if os.path.isabs(value) and len(value) > 1:
                yield f"{key}: the absolute path {value}"
            else:
                yield from (f"{key}: {found}" for found in _in_text(value, names))
    elif path.suffix in TEXT:
        yield from _in_text(data.decode(errors="replace"), names)
    else:
        for secret, what in {
            str(Path.cwd()): "path of the working directory",
            str(Path.home()): "home directory",
            **names,
        }.items():
            if len(secret) >= MIN_BYTES and secret.encode() in data:
                yield f"this machine's {what} '{secret}'"


def find_traces(folder: Path, ignored: Iterable[str] = ()) -> list[str]:
    """Absolute paths, user and host name in the files of a folder.

    YAML is read value by value, other text as it is; in binary files (images, arrays, a
    tokeniser's model) the working directory, the home directory and the names are
    looked for. Weights are left out, and so are user and host name in `README.md`: a
    card is written from flags, and names of accounts on the Hub are often those of
    users.

    Args:
        folder: what is to be published.
        ignored: names that may occur.

    Returns:
        One line for each find: "<file>: <what>".
    """
    names = {k: v for k, v in local_names().items() if k not in set(ignored)}
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        known = {} if name == "README.md" else names
        found += [f"{name}: {what}" for what in _in_file(path, known)]
    return found
