"""From the list of rows to what mtkd.sh is called with: placeholders, names, pairs."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import parse_yaml, write_atomically
from espnet_mtkd.ladder.options import OF_A_DUMP, Options, closest
from espnet_mtkd.ladder.rows import NAME, Entry, choose, lineage, read_rows

PLACEHOLDER = re.compile(r"\{(\w+)\}")
ENCODERS = ("conformer", "contextual_block_conformer")


@dataclasses.dataclass(frozen=True)
class Item:
    """What a repeated row is made for: the YAML file of its teachers, and a word."""

    file: str
    label: str

    @property
    def values(self) -> dict[str, str]:
        return dict(file=self.file, label=self.label, stem=Path(self.file).stem)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of RESULTS.md for each encoder, with the options that mtkd.sh gets.

    Attributes:
        name: of its entry in the YAML; repeated rows have it in common.
        title: in RESULTS.md.
        tag, mtkd_tag: of the directories of stages 2 and 1, without encoder and seed.
        options: of mtkd.sh.
        others: titles of the rows that it is compared with.
    """

    name: str
    title: str
    tag: str
    mtkd_tag: str
    options: dict[str, str]
    others: tuple[str, ...] = ()


class Plan:
    """The rows that were asked for.

    Args:
        values: the ladder's options, name -> value, as ladder.sh declares them.
        template: folder of ladder.sh.

    Attributes:
        rows: in the order asked for.
        encoders, seeds: which of each.

    Raises:
        ConfigError: what is wrong with an option, a file or a row.
    """

    def __init__(self, values: dict[str, str], template: Path):
        for name in ("pretrain_epochs", "head_epochs", "finetune_epochs"):
            if not re.fullmatch(r"0*[1-9][0-9]*", values[name]):
                raise ConfigError(
                    f"--{name}: expected a number above 0, found '{values[name]}'"
                )
        self.encoders = list(dict.fromkeys(values["encoders"].split()))
        for encoder in self.encoders:
            if encoder not in ENCODERS:
                raise ConfigError(
                    f"--encoders: expected {' or '.join(ENCODERS)}, found '{encoder}'"
                )
        self.seeds = list(dict.fromkeys(values["seeds"].split()))
        self.options = Options(template / "options.txt")
        files = [Path(x) for x in values["rows_config"].split()]
        if not files and Path("conf/ladder.yaml").is_file():
            files = [Path("conf/ladder.yaml")]
        self._entries, own = read_rows(
            template / "conf/ladder.yaml", files, self.options
        )
        self.teacher_exp = f"{values['expdir']}/asr_{values['kd_teacher_tag']}"
        epochs = int(values["head_epochs"]) + int(values["finetune_epochs"])
        self._values = {
            **values,
            "scratch_epochs": str(epochs),
            "kd_teacher": self.teacher_exp,
            "teachers_name": Path(values["teachers"]).stem,
        }
        names = values["rows"]
        if not names:
            names = "all" if values["rows_config"] else "scratch teachers kd"
        chosen = choose(self._entries, own, names)
        self.rows = [row for entry in chosen for row in self._rows_of(entry)]
        self._check_distinct()
        self._compare(chosen)

    @property
    def needs_teacher(self) -> bool:
        """Whether a row learns from the teacher transducer that the ladder trains."""
        return any(
            self.learns_from_teacher(row) or self.hears_teacher(row)
            for row in self.rows
        )

    def learns_from_teacher(self, row: Row) -> bool:
        """Whether stage 2 has its paths or pseudo-labels."""
        return row.options.get("kd_teacher_exp") == self.teacher_exp

    def hears_teacher(self, row: Row) -> bool:
        """Whether it is one of the teachers of stage 1."""
        path = Path(row.options.get("teachers", "none"))
        return path.is_file() and self.teacher_exp in path.read_text(encoding="utf-8")

    def write_teachers(self) -> None:
        """Write the YAML files of the teachers without one, where rows need them."""
        used = {row.options.get("teachers") for row in self.rows}
        files = {item.file: item for item in self._left_out_or_none()}
        for file in sorted(used & files.keys()):
            left = [x for x in self._teachers() if x["name"] != files[file].label]
            text = f"# {self._values['teachers']} without {files[file].label}\n"
            text += yaml.safe_dump(left, sort_keys=False, allow_unicode=True)
            path = Path(file)
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text.encode())

    # ------------------------------------------------------------ repeated rows

    def _items(self, entry: Entry) -> list[Item | None]:
        """What a row is repeated for; of others [None]."""
        each = [x.each for x in lineage(self._entries, entry) if x.each is not None]
        if not each:
            return [None]
        if each == ["left_out_teacher"]:
            return self._left_out(entry.name)
        files = self._values["single_teachers"].split()
        if not files:
            raise ConfigError(f"the row {entry.name} needs --single_teachers")
        return [Item(x, Path(x).stem.removeprefix("teacher_")) for x in files]

    def _teachers(self) -> list[dict]:
        path = Path(self._values["teachers"])
        if not path.is_file():
            raise ConfigError(f"--teachers: no such file: {path}")
        teachers = parse_yaml(path.read_bytes(), path)
        if isinstance(teachers, dict):
            teachers = teachers.get("teachers")
        if not isinstance(teachers, list) or not all(
            isinstance(x, dict) and "name" in x for x in teachers
        ):
            raise ConfigError(f"{path}: expected a list of teachers, each with a name")
        return teachers

    def _left_out(self, name: str) -> list[Item]:
        labels = [str(x["name"]) for x in self._teachers()]
        if len(labels) < 2:
            raise ConfigError(
                f"the row {name} needs at least two teachers in --teachers "
                f"{self._values['teachers']}, found {len(labels)}"
            )
        folder = Path(self._values["expdir"]) / "teachers"
        stem = self._values["teachers_name"]
        return [Item(f"{folder}/{stem}_without_{x}.yaml", x) for x in labels]

    def _left_out_or_none(self) -> list[Item]:
        needed = any(
            x.each == "left_out_teacher"
            for row in self.rows
            for x in lineage(self._entries, self._entries[row.name])
        )
        return self._left_out("") if needed else []

    # ------------------------------------------------------------ one row

    def _rows_of(self, entry: Entry) -> list[Row]:
        return [self._row(entry, item) for item in self._items(entry)]

    def _row(self, entry: Entry, item: Item | None) -> Row:
        options = self._options_of(entry, item)
        tag = self._tag(entry, item)
        return Row(
            name=entry.name,
            title=self._fill(entry.title, entry, item),
            tag=tag,
            mtkd_tag=self._mtkd_tag(entry, item, options),
            options=options,
        )

    def _options_of(self, entry: Entry, item: Item | None) -> dict[str, str]:
        """Arguments are put behind the inherited ones, where they win; other options
        take their place."""
        merged: dict[str, str] = {}
        for part in lineage(self._entries, entry):
            for name, value in part.options.items():
                if name.endswith("_args") and merged.get(name):
                    value = f"{merged[name]} {value}"
                merged[name] = value
        filled = {}
        for name, value in merged.items():
            filled[name] = self._fill(value, entry, item)
            if value and not filled[name].strip() and not name.endswith("_args"):
                needed = PLACEHOLDER.search(value)[1]
                raise ConfigError(f"the row {entry.name} needs --{needed}")
        return filled

    def _fill(self, text: str, entry: Entry, item: Item | None) -> str:
        """Put in values; a word for which there is none leaves no space behind."""
        known = {**self._values, **(item.values if item else {})}

        def value(match) -> str:
            if match[1] not in known:
                raise ConfigError(
                    f"{entry.where}: no such placeholder: {{{match[1]}}} "
                    f"({closest(match[1], known)})"
                )
            return known[match[1]]

        words = (PLACEHOLDER.sub(value, word) for word in text.split(" "))
        return " ".join(word for word in words if word)

    def _tag(self, entry: Entry, item: Item | None) -> str:
        """The row's own, or that of the row it adds to and its name."""
        parts: list[str] = []
        for part in lineage(self._entries, entry):
            parts = [part.tag] if part.tag else [*parts, part.name]
        tag = self._fill("_".join(parts), entry, item)
        if not NAME.fullmatch(tag) or len(tag) > 150:
            raise ConfigError(
                f"{entry.where}: the directory of its experiment would be called "
                f"'{tag}': give it a tag of at most 150 letters, digits and '_', '.', "
                "'+', '-'"
            )
        return tag

    def _mtkd_tag(self, entry: Entry, item, options: dict[str, str]) -> str:
        """A stage 1 of the same options is trained once: its tag is that of a row which
        this one adds to, or of the first row with these options."""
        if options.get("teachers", "none") == "none":
            return "none"
        if entry.mtkd_tag:
            return self._fill(entry.mtkd_tag, entry, item)
        wanted = self._stage_1_of(options)
        parent = self._parent_with(wanted, entry, item)
        if parent is not None:
            return self._mtkd_tag(*parent)
        for other in self._entries.values():
            for x, found in self._instances(other, item):
                if self._stage_1_of(found) == wanted and (
                    other is entry or self._parent_with(wanted, other, x) is None
                ):
                    tag = other.mtkd_tag
                    return self._fill(tag, other, x) if tag else self._tag(other, x)
        return self._tag(entry, item)

    def _parent_with(self, stage_1: dict[str, str], entry: Entry, item: Item | None):
        """The first row among those that a row adds to that has this stage 1."""
        for parent in lineage(self._entries, entry)[:-1]:
            for x, options in self._instances(parent, item):
                if self._stage_1_of(options) == stage_1:
                    return parent, x, options
        return None

    def _instances(self, entry: Entry, item: Item | None):
        """(item, options) of a row, with this item alone if the row has it; none where
        it cannot be made."""
        try:
            items = self._items(entry)
            if item in items:
                items = [item]
            return [(x, self._options_of(entry, x)) for x in items]
        except ConfigError:
            return []

    def _stage_1_of(self, options: dict[str, str]) -> dict[str, str]:
        defaults = self.options.names
        return {
            k: options.get(k, defaults.get(k, "")) for k in self.options.pretraining
        }

    # ------------------------------------------------------------ rows together

    def _check_distinct(self) -> None:
        for what in ("title", "tag"):
            seen: dict[str, Row] = {}
            for row in self.rows:
                other = seen.setdefault(getattr(row, what), row)
                if other is row:
                    continue
                where = f"--rows: two rows would be called '{getattr(row, what)}': "
                if other.name == row.name:
                    raise ConfigError(
                        f"{where}{row.name} is repeated: write {{label}} into its "
                        f"{what}, or rename what is called alike of --single_teachers "
                        "or --teachers"
                    )
                raise ConfigError(
                    f"{where}{other.name} and {row.name}: give them different {what}s"
                )

        defaults = self.options.names
        dumps: dict[tuple[str, str], tuple[str, str]] = {}
        rows = [(row.name, row.options) for row in self.rows]
        if self.needs_teacher:
            rows.insert(0, ("the teacher transducer", {}))
        for row, options in rows:
            dump = options.get("dumpdir", defaults["dumpdir"])
            for name in OF_A_DUMP:
                value = options.get(name, defaults[name])
                first, other = dumps.setdefault((dump, name), (value, row))
                if first != value:
                    raise ConfigError(
                        f"--rows: {other} has {name} '{first}' and {row} '{value}', "
                        "but both write to one --dumpdir: give one of them a dumpdir "
                        "of its own among its options"
                    )

    def _compare(self, chosen: Sequence[Entry]) -> None:
        """Fill in what each row is compared with, each pair once."""
        of_entry: dict[str, list[Row]] = {}
        items: dict[str, list[Item | None]] = {}
        for entry in chosen:
            of_entry[entry.name] = [x for x in self.rows if x.name == entry.name]
            items[entry.name] = self._items(entry)
        pairs: dict[frozenset, tuple[str, str]] = {}
        for by_hand in (True, False):  # what is asked for has the direction
            for entry in chosen:
                names = entry.compare_with if by_hand else (entry.adds_to,)
                for name in names:
                    others = of_entry.get(name, [])
                    rows = of_entry[entry.name]
                    same = by_hand is False and items.get(name) == items[entry.name]
                    for i, row in enumerate(rows):
                        for other in [others[i]] if same and others else others:
                            pair = (row.title, other.title)
                            pairs.setdefault(frozenset(pair), pair)
        for i, row in enumerate(self.rows):
            found = tuple(b for a, b in pairs.values() if a == row.title)
            self.rows[i] = dataclasses.replace(row, others=found)


def describe(plan: Plan) -> str:
    """The plan, a row a line: name, directories of stage 1 and 2, options, pairs."""
    lines = []
    for row in plan.rows:
        options = " ".join(f"--{k} {v!r}" for k, v in row.options.items())
        lines.append(
            "\t".join(
                [
                    row.name,
                    row.title,
                    f"mtkd_<encoder>_{row.mtkd_tag}",
                    f"asr_<encoder>_{row.tag}",
                    options,
                    "compared with: " + (", ".join(row.others) or "none"),
                ]
            )
        )
    return "\n".join(lines)
