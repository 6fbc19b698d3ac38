"""What a teacher is configured by, and what it promises to give."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_mtkd.errors import ConfigError, shown, unknown_key
from espnet_mtkd.files import parse_yaml
from espnet_mtkd.teachers.checkpoints import check_checkpoint

MAX_NUMBER = 1e9  # of a weight, and of samples


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """One entry of the `teachers:` list.

    Attributes:
        name: how logs, heads and checkpoints call it ([A-Za-z0-9_]).
        upstream: name in s3prl's list of upstreams, or one of our `whisper*` names.
        path_or_url: checkpoint, needed by upstreams named `*_local`, `*_url`,
            `*_custom`.
        layers: indexes into the upstream's hidden states (0 is the input of the first
            block, -1 the last); None takes about three quarters of the depth.
        normalize: layer-normalise hidden states (s3prl's option of that name).
        extra_conf: further keyword arguments for the upstream.
        weight: share of this teacher in the loss; its layers divide it equally.
        frame_centre: samples from the beginning of the audio to the middle of what
            frame 0 hears, for an upstream of which `S3PRLTeacher` guesses it wrongly.
    """

    name: str
    upstream: str
    path_or_url: str | None = None
    layers: Sequence[int] | None = None
    normalize: bool = False
    extra_conf: dict[str, Any] = dataclasses.field(default_factory=dict)
    weight: float = 1.0
    frame_centre: float | None = None


@dataclasses.dataclass(frozen=True)
class TargetSpec:
    """One embedding sequence that the student has to predict.

    Attributes:
        name: `<teacher>_l<layer>`, the key of heads, statistics and target dicts.
        teacher: the teacher's name.
        layer: index into the upstream's hidden states.
        dim: embedding dimension E.
        frame_shift: samples (16 kHz) between two frames.
        frame_centre: sample in the middle of what frame 0 hears.
        weight: factor of its loss, before division by the sum over all targets.
        num_codebooks: 0 where the target is an embedding; else it is codes of so many
            codebooks of 256 entries, and `dim` is their number.
    """

    name: str
    teacher: str
    layer: int
    dim: int
    frame_shift: int
    frame_centre: float
    weight: float
    num_codebooks: int = 0


def resolve_layers(config: TeacherConfig, num_layers: int) -> list[int]:
    """The hidden states that a config names, as indexes from 0.

    Args:
        config: of the teacher; without layers, one at three quarters of the depth.
        num_layers: hidden states that its upstream gives, index 0 included.

    Raises:
        ConfigError: a layer that is not there, or one named twice.
    """
    if config.layers is None:
        return [round(0.75 * (num_layers - 1))]
    layers = []
    for layer in config.layers:
        if not -num_layers <= layer < num_layers:
            raise ConfigError(
                f"teacher '{config.name}': layer {layer} asked for, but "
                f"'{config.upstream}' has the hidden states 0 to {num_layers - 1}"
            )
        layers.append(layer % num_layers)
    if len(set(layers)) != len(layers):
        raise ConfigError(
            f"teacher '{config.name}': the layers {list(config.layers)} name one "
            f"hidden state twice ({num_layers} in all)"
        )
    return layers


def parse_teachers(value) -> list[TeacherConfig]:
    """Read the `teachers` list from a config, a YAML file's path or a YAML string.

    Args:
        value: list of dicts, the path of a YAML file (either the list itself or a
            mapping with the key `teachers`), or such a list as a YAML string.

    Returns:
        Validated configs, in order.

    Raises:
        ConfigError: with every problem found, not only the first.
    """
    where = "teachers"
    if isinstance(value, str):
        if value.endswith((".yaml", ".yml")):
            where = value
            if not Path(value).is_file():
                raise ConfigError(f"teachers file not found: {value}")
            value = Path(value).read_bytes()
        value = parse_yaml(value, where)
        if isinstance(value, dict) and set(value) == {"teachers"}:
            value = value["teachers"]
    if not isinstance(value, (list, tuple)) or len(value) == 0:
        raise ConfigError(
            f"{where}: expected a list of at least one teacher, e.g. "
            f"[{{name: hubert, upstream: hubert_base}}], found: {shown(value)}"
        )
    problems, configs = [], []
    for i, entry in enumerate(value):
        if isinstance(entry, TeacherConfig):
            configs.append(entry)
            continue
        found, config = _parse_one(entry, f"{where}[{i}]")
        problems += found
        if config is not None:
            configs.append(config)
    names = [c.name for c in configs]
    for name in sorted({n for n in names if names.count(n) > 1}):
        problems.append(f"{where}: the name '{name}' is used by more than one teacher")
    if problems:
        raise ConfigError("\n  ".join([f"{len(problems)} problem(s):", *problems]))
    return configs


def _parse_one(entry, where: str) -> tuple[list[str], TeacherConfig | None]:
    if not isinstance(entry, dict):
        return [f"{where}: expected a mapping, found {type(entry).__name__}"], None
    fields = {f.name for f in dataclasses.fields(TeacherConfig)}
    problems = []
    for key in sorted(set(entry) - fields, key=str):
        problems.append(unknown_key(where, key, sorted(fields)))
    entry = {k: v for k, v in entry.items() if k in fields and v is not None}

    def expect(key, types, text):
        if key in entry and (
            not isinstance(entry[key], types) or isinstance(entry[key], bool)
        ):
            found = shown(entry[key])
            problems.append(f"{where}: {key}: expected {text}, found {found}")

    for key in ("name", "upstream"):
        if key not in entry:
            problems.append(f"{where}: the key '{key}' is missing")
        expect(key, str, "a string")
    expect("path_or_url", str, "a path or URL")
    expect("extra_conf", dict, "a mapping")
    expect("weight", (int, float), "a number")
    expect("frame_centre", (int, float), "a number of samples")
    if not isinstance(entry.get("normalize", False), bool):
        problems.append(f"{where}: normalize: expected true or false")
    if not problems and not re.fullmatch(r"[A-Za-z0-9_]+", entry["name"]):
        problems.append(
            f"{where}: name: expected letters, digits and '_', found "
            f"{shown(entry['name'])}"
        )
    weight, centre = entry.get("weight", 1.0), entry.get("frame_centre", 0.0)
    if not problems and not weight > 0:
        problems.append(f"{where}: weight: expected above 0, found {shown(weight)}")
    if not problems and not abs(centre) < MAX_NUMBER:  # NaN neither
        problems.append(
            f"{where}: frame_centre: expected a number of samples, found "
            f"{shown(centre)}"
        )
    if not problems and not weight < MAX_NUMBER:
        problems.append(
            f"{where}: weight: expected a finite number, found {shown(weight)}"
        )
    if not problems and "\0" in entry.get("path_or_url", ""):
        problems.append(f"{where}: path_or_url: expected no zero byte in it")
    layers = entry.get("layers")
    if isinstance(layers, int) and not isinstance(layers, bool):
        layers = [layers]
    if layers is not None and not (
        isinstance(layers, (list, tuple))
        and layers
        and all(isinstance(x, int) and not isinstance(x, bool) for x in layers)
        and all(abs(x) < MAX_NUMBER for x in layers)
    ):
        problems.append(
            f"{where}: layers: expected an integer or a list of them, found "
            f"{shown(layers)}"
        )
    if problems:
        return problems, None
    layers = None if layers is None else tuple(layers)
    return [], TeacherConfig(**{**entry, "layers": layers})


def check_files(config: TeacherConfig) -> None:
    """Refuse a teacher whose checkpoint is not there or is another than it reads.

    Nothing is loaded; see `check_checkpoint`.

    Raises:
        ConfigError: the upstream's name asks for a checkpoint that is missing, or one
            of another form.
    """
    kind = config.upstream.rsplit("_", 1)[-1]
    path = config.path_or_url
    if kind in ("local", "url", "custom", "gdriveid") and not path:
        raise ConfigError(
            f"teacher '{config.name}': upstream '{config.upstream}' needs a checkpoint:"
            " give `path_or_url: <path>` beside it"
        )
    check_checkpoint(config)
    if path and kind == "local" and not Path(path).exists():
        raise ConfigError(
            f"teacher '{config.name}': path_or_url: no such file or directory: {path} "
            f"(looked from {Path.cwd()})"
            + (
                ": fetch it: python -m espnet_mtkd.bin.mtkd_fetch_whisper --model base "
                f"(or tiny.en) --out_dir {path}"
                if config.upstream == "whisper_local"
                else ""
            )
        )
