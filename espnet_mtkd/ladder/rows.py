"""The list of rows in YAML: what stands in it, and what is wrong with it."""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import parse_yaml
from espnet_mtkd.ladder.options import Options, closest

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # a part of files' names
ALL = "all"  # in --rows: all rows of --rows_config
EACH = ("single_teachers", "left_out_teacher")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row as the YAML has it: placeholders are not filled in.

    Attributes:
        name: in `--rows`.
        title: in RESULTS.md.
        adds_to: name of the row whose options it inherits.
        options: of mtkd.sh, its own alone.
        tag, mtkd_tag: of the directories of stage 2 and 1; None: see `plan`.
        each: what it is repeated for, one of `EACH`; None: it is one row.
        compare_with: names of rows beside `adds_to` that it is compared with.
        where: file and name, for messages.
    """

    name: str
    title: str
    adds_to: str | None
    options: dict[str, str]
    tag: str | None
    mtkd_tag: str | None
    each: str | None
    compare_with: tuple[str, ...]
    where: str


KEYS = [field.name for field in dataclasses.fields(Entry) if field.name != "where"]


def read_rows(template: Path, files: Sequence[Path], options: Options):
    """Rows of the template and of further files.

    A row of a further file takes the place of the template's row of that name.

    Args:
        template: YAML file of the rows that are always known.
        files: further ones, of `--rows_config`.
        options: of mtkd.sh.

    Returns:
        All rows by name, in order; and the names that `files` have, in order.

    Raises:
        ConfigError: what is wrong, in which file and row.
    """
    rows = _read_file(template, options)
    own: dict[str, Entry] = {}
    for path in files:
        for name, entry in _read_file(path, options).items():
            if name in own:
                raise ConfigError(
                    f"{entry.where}: a row of that name is in {own[name].where}"
                )
            own[name] = entry
    rows |= own
    for entry in rows.values():
        for other in [entry.adds_to, *entry.compare_with]:
            if other is not None and other not in rows:
                key = "adds_to" if other == entry.adds_to else "compare_with"
                raise ConfigError(
                    f"{entry.where}: {key}: no such row: {other} "
                    f"({closest(other, rows)})"
                )
    for entry in rows.values():
        lineage(rows, entry)
    return rows, list(own)


def lineage(rows: dict[str, Entry], entry: Entry) -> list[Entry]:
    """The rows that a row adds to, the first one first, and the row itself.

    Raises:
        ConfigError: they add to each other in a circle.
    """
    found = [entry]
    while found[0].adds_to is not None:
        parent = rows[found[0].adds_to]
        if parent in found:
            names = [parent.name, *(x.name for x in found)]
            raise ConfigError(
                f"{entry.where}: adds_to goes in a circle: {' <- '.join(names)}"
            )
        found.insert(0, parent)
    if sum(x.each is not None for x in found) > 1:
        raise ConfigError(
            f"{entry.where}: each: a row that it adds to is repeated already"
        )
    return found


def choose(rows: dict[str, Entry], own: list[str], words: str) -> list[Entry]:
    """The rows that `--rows` names, each once, in its order.

    Raises:
        ConfigError: an unknown name, with the closest ones.
    """
    names = []
    for word in words.split():
        if word == ALL:
            names += own
        elif word in rows:
            names.append(word)
        else:
            raise ConfigError(
                f"--rows: no such row, found '{word}' ({closest(word, rows)})"
            )
    if ALL in words.split() and not own:
        raise ConfigError("--rows all: means those of --rows_config, which has none")
    return [rows[name] for name in dict.fromkeys(names)]


def _read_file(path: Path, options: Options) -> dict[str, Entry]:
    if not path.is_file():
        raise ConfigError(f"--rows_config: no such file: {path}")
    content = parse_yaml(path.read_bytes(), path)
    if not isinstance(content, list):
        raise ConfigError(f"{path}: expected a list of rows, found {content!r:.80}")
    rows: dict[str, Entry] = {}
    for number, item in enumerate(content, 1):
        if not isinstance(item, dict) or "name" not in item:
            raise ConfigError(
                f"{path}: row {number}: expected a mapping with a name, found "
                f"{item!r:.80}"
            )
        entry = _entry(item, path, options)
        if entry.name in rows:
            raise ConfigError(f"{path}: two rows are called '{entry.name}'")
        rows[entry.name] = entry
    return rows


def _entry(item: dict, path: Path, options: Options) -> Entry:
    name = _text(item["name"], f"{path}: name")
    where = f"{path}: row '{name}'"
    if not NAME.fullmatch(name) or len(name) > 80 or name == ALL:
        raise ConfigError(
            f"{where}: name: expected at most 80 letters, digits and '_', '.', '+', "
            f"'-', a letter or digit first, and not '{ALL}': directories are called so"
        )
    for key in item:
        if key not in KEYS:
            hint = closest(str(key), KEYS)
            raise ConfigError(f"{where}: no such key: {key} ({hint})")
    title = _text(item.get("title", name), f"{where}: title")
    if not title.strip() or "=" in title or ": " in title or "\n" in title:
        raise ConfigError(
            f"{where}: title: expected a line without '=' and ': ', found '{title}'"
        )
    each = item.get("each")
    if each is not None and each not in EACH:
        raise ConfigError(
            f"{where}: each: expected {' or '.join(EACH)}, found {each!r}"
        )
    others = item.get("compare_with") or ""
    if isinstance(others, list):
        others = " ".join(map(str, others))
    tags = {}
    for key in ("tag", "mtkd_tag"):
        tags[key] = None if item.get(key) is None else str(item[key])
        if not re.fullmatch(r"[A-Za-z0-9_.+{}-]+", tags[key] or "x"):
            raise ConfigError(
                f"{where}: {key}: expected a part of a directory's name: letters, "
                f"digits and '_', '.', '+', '-', found '{tags[key]}'"
            )
    adds_to = item.get("adds_to")
    return Entry(
        name=name,
        title=title,
        adds_to=None if adds_to is None else _text(adds_to, f"{where}: adds_to"),
        options=_options(item.get("options"), where, options),
        each=each,
        compare_with=tuple(_text(others, f"{where}: compare_with").split()),
        where=where,
        **tags,
    )


def _options(value, where: str, options: Options) -> dict[str, str]:
    """Options of a row, from a mapping or from words as on mtkd.sh's command line."""
    where = f"{where}: options"
    if isinstance(value, str):
        value = _pairs(value, where)
    if value is not None and not isinstance(value, dict):
        raise ConfigError(
            f"{where}: expected a mapping, or words as on mtkd.sh's command line, "
            f"found {value!r:.80}"
        )
    found = {}
    for key, content in (value or {}).items():
        name = str(key).removeprefix("--").replace("-", "_")
        options.check_name(name, where)
        if isinstance(content, list):
            content = " ".join(_text(x, f"{where}: {name}") for x in content)
        found[name] = _text(content, f"{where}: {name}")
    return found


def _pairs(text: str, where: str) -> dict[str, str]:
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise ConfigError(f"{where}: {e}: {text}") from e
    found, i = {}, 0
    while i < len(words):
        name, equals, value = words[i].partition("=")
        if not name.startswith("--"):
            raise ConfigError(f"{where}: expected --option value, found '{words[i]}'")
        if not equals:
            i += 1
            if i == len(words):
                raise ConfigError(f"{where}: {name} needs a value")
            value = words[i]
        found[name] = value
        i += 1
    return found


def _text(value, where: str) -> str:
    """A scalar of YAML as mtkd.sh expects it on its command line."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return " ".join(str(value).split("\n")).strip()
    raise ConfigError(f"{where}: expected a word or a number, found {value!r:.80}")
