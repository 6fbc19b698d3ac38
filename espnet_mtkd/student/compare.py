"""Do two configs describe one encoder, and the features that it was trained on?

Weights fit wherever shapes do, also where they mean something else: with another hop,
another activation, another kind of position. So configs are compared field by field,
with each class's defaults filled in.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path

import humanfriendly

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.files import sha256_of
from espnet_mtkd.student.build import (
    encoder_choices,
    frontend_choices,
    normalize_choices,
)

COMPARED = (frontend_choices, normalize_choices, encoder_choices)
# They act in training alone, choose between two ways to compute one thing, or say which
# blocks are given out beside the last.
FREE = {
    *("dropout_rate", "positional_dropout_rate", "attention_dropout_rate"),
    *("stochastic_depth_rate", "layer_drop_rate", "use_flash_attn", "use_sdpa"),
    "interctc_layer_idx",
}


def differing_fields(expected: Mapping, found: Mapping) -> list[str]:
    """A line for each field in which two students differ, with both values.

    Args:
        expected, found: ESPnet's sections, `frontend`, `frontend_conf`, `encoder`, ...;
            a part that either does not name is not compared.

    Raises:
        ConfigError: a class or section that ESPnet could not make a part of.
    """
    lines = []
    for choices in COMPARED:
        name = choices.name
        if name not in expected or name not in found:
            continue
        if expected[name] != found[name]:
            lines.append(f"{name}: expected {expected[name]}, found {found[name]}")
            continue
        if expected[name] is None:
            continue
        ours, theirs = (
            filled_in(choices, config[name], config.get(f"{name}_conf"))
            for config in (expected, found)
        )
        for key in [*ours, *(k for k in theirs if k not in ours)]:
            if key not in FREE and ours.get(key) != theirs.get(key):
                lines.append(
                    f"{name}_conf.{key}: expected {ours.get(key)!r}, found "
                    f"{theirs.get(key)!r}"
                )
    return lines


def filled_in(choices, name: str, conf: Mapping | None) -> dict:
    """A section with the defaults of its class, each value in one spelling.

    Args:
        choices: ESPnet's, of which `name` is one.
        name: of the class.
        conf: the section.

    Raises:
        ConfigError: another name, or no mapping.
    """
    if not isinstance(name, str) or name not in choices.classes:
        raise ConfigError(
            f"{choices.name}: expected one of {sorted(choices.classes)}, found {name!r}"
        )
    if not isinstance(conf or {}, Mapping):
        raise ConfigError(f"{choices.name}_conf: expected a mapping, found {conf!r}")
    parameters = inspect.signature(choices.classes[name]).parameters
    values = {
        key: parameter.default
        for key, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    for key, value in (conf or {}).items():
        default = values.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = {**default, **value}
        values[key] = list(value) if isinstance(value, tuple) else value
    if (choices.name, name) == ("frontend", "default"):
        values = _resolve_frontend(values)
    if "stats_file" in values:
        values["stats_file"] = _content(values["stats_file"])
    return values


def _resolve_frontend(values: dict) -> dict:
    """What `DefaultFrontend` and its layers make of None."""
    fs = values["fs"]
    if isinstance(fs, str):
        fs = humanfriendly.parse_size(fs)
    implied = dict(win_length=values["n_fft"], fmin=0, fmax=fs / 2)
    return {
        **values,
        "fs": fs,
        **{k: v if values[k] is None else values[k] for k, v in implied.items()},
    }


def _content(stats_file) -> str:
    """Statistics are what stands in the file, wherever it lies."""
    path = Path(str(stats_file))
    return f"sha256 {sha256_of(path)}" if path.is_file() else str(path)
