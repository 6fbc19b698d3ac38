"""What a file tells of the machine that it was made on, and of its user."""

import getpass
import os
import re
import socket
import zipfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import yaml

from espnet_mtkd.publish.secrets import SECRET_KEY, secrets, tokens

CARD = "README.md"
URL = re.compile(r"\b(?!file:)[A-Za-z][\w+.-]*://[^\s<>\"'`)]*")
# Two parts at least: "/ %" and "WER/CER" are no paths.
# The second: what follows a flag of one letter, as in -I/home/...
ABSOLUTE_PATH = re.compile(
    r"(?:(?<=file://)|(?<=\B-[A-Za-z])|(?<![\w.~/$-]))(?:/[\w.+@-]+){2,}"
)
WINDOWS_PATH = re.compile(
    r"(?:(?<![A-Za-z0-9])[A-Za-z]:|(?<![\w\\])\\\\[\w.-]+)"  # a drive, or a server
    r"\\[\w.+@$ -]+(?:\\[\w.+@ -]+)*"
)
# In binary content two parts occur by chance, but not below a directory of these.
KNOWN_PATH = re.compile(
    r"/(?:home|Users|root|mnt|media|data|scratch|work|opt|srv|export|tmp|var|nfs|gpfs|"
    r"lustre|private|Volumes)/[\w.+@-]{2,}(?:/[\w.+@-]+)*",
    re.A,
)
# Accounts that tell nothing of a person.
ANONYMOUS = frozenset(
    "root user admin ubuntu debian centos runner nobody docker jovyan vscode codespace "
    "ec2-user azureuser localhost".split()
)
YAML = {".yaml", ".yml"}
WEIGHTS = {".pth", ".safetensors"}
MIN_BYTES = 5  # a shorter name occurs in compressed data by chance
MAX_HEADER = 1 << 24  # bytes: what a weights file says beside its tensors


def local_names() -> dict[str, str]:
    """User and host name of this machine, where they tell something: name -> what."""
    host = socket.gethostname()
    names = {host: "host name", host.partition(".")[0]: "host name"}
    try:
        names[getpass.getuser()] = "user name"
    except (OSError, KeyError, ImportError):  # an account without a name
        pass
    return {
        name: what
        for name, what in names.items()
        if len(name) > 2 and name not in ANONYMOUS
    }


def leaves(value, where: str = "") -> Iterator[tuple[str, object]]:
    """(key, value) of all that is no mapping or list; token lists are left out."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if key != "token_list":
                yield from leaves(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)) and value:
        for item in value:
            yield from leaves(item, where)
    else:
        yield where, value


def scalars(value) -> Iterator[tuple[str, str]]:
    """(key, string) of each string in a config; token lists are left out."""
    return ((k, v) for k, v in leaves(value) if isinstance(v, str))


def _as_text(value) -> str:
    """What a value of a config may tell; of those that only say yes or no, nothing."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return str(value) if value and value is not True else ""


class Search:
    """Looks for traces in content of several kinds.

    Args:
        names: user and host names -> what they are.
        ignored: names and e-mail addresses that may occur.
    """

    def __init__(self, names: dict[str, str], ignored: Collection[str] = ()):
        self.ignored = {x.lower() for x in ignored}
        self.names = {k: v for k, v in names.items() if k.lower() not in self.ignored}
        self.folders = {
            str(Path.cwd()): "working directory",
            str(Path.home()): "home directory",
        }

    def in_names(self, text: str, is_card: bool = False) -> Iterator[str]:
        """User and host name, whole words; '_' ends a word, capitals do not matter.

        Of a card, a user name before '/' is that of an account on the Hub.
        """
        for name, what in self.names.items():
            end = "(?![^\\W_]|/)" if is_card and what == "user name" else "(?![^\\W_])"
            if re.search(rf"(?<![^\W_]){re.escape(name)}{end}", text, re.I):
                yield f"this machine's {what} '{name}'"

    def in_text(self, text: str, is_card: bool = False) -> Iterator[str]:
        """Paths, names and secrets in what people read."""
        local = URL.sub(" ", text)
        paths = [m[0] for x in (ABSOLUTE_PATH, WINDOWS_PATH) for m in x.finditer(local)]
        for path in dict.fromkeys(paths):
            yield f"the absolute path {path}"
        for folder, what in self.folders.items():
            is_told = any(folder in path for path in paths)
            if folder.count("/") > 1 and folder in local and not is_told:
                yield f"this machine's {what} {folder}"
        yield from self.in_names(text, is_card)
        yield from secrets(text, self.ignored)

    def in_yaml(self, text: str) -> Iterator[str]:
        """Keys, values and comments; a token is no path."""
        try:
            documents = list(yaml.safe_load_all(text))
        except yaml.YAMLError:
            yield from self.in_text(text)
            return
        for key, value in leaves(documents):
            value = _as_text(value)
            where = f"{key}: " if key else ""
            found = list(self.in_text(value))
            if os.path.isabs(value) and len(value) > 1:
                found = [x for x in found if not x.startswith("the absolute path")]
                found.insert(0, f"the absolute path {value}")
            if SECRET_KEY.search(key) and value:
                found.append("what is called so is not to be published")
            yield from (f"{where}{x}" for x in found)
        for key in sorted({key for key, _ in leaves(documents)}):
            yield from (f"key {key}: {x}" for x in self.in_text(key))
        for comment in re.findall(r"(?:^|\s)#(.*)", text):
            yield from (f"comment: {x}" for x in self.in_text(comment))

    def in_binary(self, data: bytes) -> Iterator[str]:
        """What does not occur by chance."""
        text = data.decode("latin-1")
        found = list(dict.fromkeys(KNOWN_PATH.findall(text)))
        yield from (f"the absolute path {x}" for x in found)
        for secret, what in {**self.folders, **self.names}.items():
            is_told = any(secret in path for path in found)
            known = len(secret) >= MIN_BYTES and secret.encode() in data
            if known and not is_told:
                yield f"this machine's {what} '{secret}'"
        yield from tokens(text)

    def in_file(self, path: Path, is_card: bool = False) -> Iterator[str]:
        """Of a file, by what it holds."""
        if path.suffix in WEIGHTS:
            yield from self.in_binary(weights_header(path))
            return
        data = path.read_bytes()
        if b"\0" in data:
            yield from self.in_binary(data)
        elif path.suffix in YAML:
            yield from self.in_yaml(data.decode(errors="replace"))
        else:
            yield from self.in_text(data.decode(errors="replace"), is_card)


def weights_header(path: Path) -> bytes:
    """What a file of weights holds beside the numbers."""
    if zipfile.is_zipfile(path):  # torch's
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
            pickles = [packed.read(x) for x in names if x.endswith(".pkl")]
        tops = sorted({x.partition("/")[0] for x in names})  # of the file once saved
        return b"\n".join(["\n".join(tops).encode(), *pickles])
    with open(path, "rb") as f:
        size = MAX_HEADER
        if path.suffix == ".safetensors":  # its length, then JSON
            size = min(size, int.from_bytes(f.read(8), "little"))
        return f.read(size)


def find_traces(folder: Path, ignored: Iterable[str] = ()) -> list[str]:
    """Absolute paths, user and host name, secrets and e-mail addresses.

    The names of the files are looked at, YAML value by value, other text as it is. In
    binary files (images, arrays, a tokeniser's model, what weights say of themselves)
    are looked for: the working and the home directory, paths below directories that
    machines have, the names, and tokens.

    Args:
        folder: what is to be published.
        ignored: names and e-mail addresses that may occur.

    Returns:
        One line for each find: "<file>: <what>".
    """
    search = Search(local_names(), set(ignored))
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        lines = [f"its name: {x}" for x in search.in_names(name)]
        lines += [f"its name: {x}" for x in secrets(name, search.ignored)]
        lines += search.in_file(path, is_card=name == CARD)
        found += [f"{name}: {x}" for x in dict.fromkeys(lines)]
    return found
