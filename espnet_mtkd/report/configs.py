"""Configs of rows, flat, and the commands that made them."""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet_mtkd.files import read_yaml
from espnet_mtkd.report.titles import run_titles
from espnet_mtkd.results.commands import MODULES
from espnet_mtkd.results.report import pretraining_of
from espnet_mtkd.results.scores import find_score_dirs

MAX_LETTERS = 400  # of a value; a token list has many more


@dataclasses.dataclass(frozen=True)
class Made:
    """How a row was made.

    Attributes:
        title: of the row.
        config: "<part>: <key>" -> value, of all its trainings.
        commands: what it was made by -> command line.
        versions: what ran -> version, as ESPnet wrote them; the machine of each
            training.
    """

    title: str
    config: dict[str, str]
    commands: dict[str, str]
    versions: dict[str, str]


def read_made(rows: Sequence[tuple[str, Path]]) -> list[Made]:
    """How each row was made, from configs, logs and ESPnet's RESULTS.md.

    Args:
        rows: name and directory of stage 2; seeds are rows of their own here.

    Raises:
        ConfigError: a damaged config.
    """
    made = []
    for title, asr_exp in run_titles(rows):
        parts = {
            "stage 1": pretraining_of(asr_exp),
            "stage 2, frozen encoder": asr_exp / "head",
            "stage 2": asr_exp,
        }
        config: dict[str, str] = {}
        commands: dict[str, str] = {}
        machines: dict[str, str] = {}
        for part, folder in parts.items():
            if folder is None or not (folder / "config.yaml").is_file():
                continue
            config |= {
                f"{part}: {key}": value
                for key, value in flatten(read_yaml(folder / "config.yaml")).items()
            }
            command = first_command(folder / "train.log")
            if command:
                commands[part] = command
            where = machine_of(folder / "train.log")
            if where:
                machines[part] = where
        for dset, folder in find_score_dirs(asr_exp).items():
            logs = [x for p in MODULES.values() for x in sorted(folder.glob(p))]
            command = first_command(logs[0]) if logs else None
            if command:
                commands[f"decoding of {dset}"] = command
        versions = read_versions(asr_exp / "RESULTS.md")
        for part, where in machines.items():
            versions[f"machine of {part}"] = where
        made.append(Made(title, config, commands, versions))
    return made


def flatten(config: dict, prefix: str = "") -> dict[str, str]:
    """A config with one line for each value: `encoder_conf.num_blocks` -> `6`.

    Of a list of mappings, teachers say, each is one value, called after its `name` or
    by number; another list is one value. Long values are cut.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        is_list = isinstance(value, list)
        if is_list and value and all(isinstance(x, dict) for x in value):
            for i, x in enumerate(value, 1):
                flat[f"{name}.{x.get('name', i)}"] = _text(x)
        elif isinstance(value, dict) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = _text(value)
    return flat


def _text(value) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=1 << 30)
    text = text.removesuffix("\n").removesuffix("\n...")
    if len(text) <= MAX_LETTERS:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]  # what differs, looks so
    return f"{text[:MAX_LETTERS]} ... ({len(text)} letters, sha256 {digest}...)"


def first_command(log: Path) -> str | None:
    """The command line that ESPnet's launchers write into a log's first line."""
    if not log.is_file():
        return None
    with open(log, encoding="utf-8", errors="replace") as lines:
        line = lines.readline()
    return line[1:].strip() if line.startswith("#") else None


def machine_of(log: Path) -> str | None:
    """What a training wrote of its machine, the last time it was begun or resumed."""
    if not log.is_file():
        return None
    text = log.read_text(encoding="utf-8", errors="replace")
    found = re.findall(r"INFO: machine: (.*)", text)
    return found[-1] if found else None


def read_versions(results: Path) -> dict[str, str]:
    """What ESPnet's show_asr_result.sh says of the environment; empty without it."""
    if not results.is_file():
        return {}
    text = results.read_text(encoding="utf-8", errors="replace")
    pairs = re.findall(r"^ *- ([^:\n]+): `(.*)`$", text.partition("\n## exp")[0], re.M)
    return dict(pairs)
