"""Sections of a config that are read into a dataclass, each value looked at."""

import dataclasses
from collections.abc import Mapping

from espnet_mtkd.errors import ConfigError, shown, unknown_key


def read_section(name: str, options: type, conf: Mapping | None):
    """An object of a config's section.

    Args:
        name: of the section, for messages.
        options: a dataclass whose fields are the section's keys; for those with limits
            see `number` and `number_range`.
        conf: the section; None where it stands there without content.

    Raises:
        ConfigError: no mapping; an unknown key, with the closest one; or a value that
            is no number, not within its limits, or a range whose ends are exchanged.
    """
    if conf is not None and not isinstance(conf, Mapping):
        raise ConfigError(f"{name}: expected a mapping, found {shown(conf)}")
    fields = {field.name: field for field in dataclasses.fields(options)}
    values = dict(conf or {})
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(unknown_key(name, key, fields))
        values[key] = check_value(f"{name}.{key}", fields[key], value)
    return options(**values)


def check_value(where: str, field: dataclasses.Field, value):
    """A value of a section, a range as a tuple.

    Args:
        where: section and key, for messages.
        field: of the dataclass; see `read_section`.
        value: that was found.

    Raises:
        ConfigError: see `read_section`.
    """
    if "within" not in field.metadata:
        return value
    low, high = field.metadata["within"]
    is_whole = field.metadata["is_whole"]
    kinds, kind = ((int,), "integer") if is_whole else ((int, float), "number")

    def is_meant(x) -> bool:
        return type(x) in kinds and low <= x <= high  # (NaN is not)

    if not field.metadata["is_range"]:
        if not is_meant(value):
            raise ConfigError(
                f"{where}: expected one {kind} from {low:g} to {high:g}, found "
                f"{shown(value)}"
            )
        return value
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if not (is_pair and all(map(is_meant, value)) and value[0] <= value[1]):
        raise ConfigError(
            f"{where}: expected [least, greatest], two {kind}s from {low:g} to "
            f"{high:g}, found {shown(value)}"
        )
    return tuple(value)


def number(default, low, high):
    """A field with one number from `low` to `high`; an integer where these are."""
    return _field(default, low, high, is_range=False)


def number_range(default: tuple, low, high):
    """A field with two numbers, the ends of a range within `low` to `high`; likewise.

    In the dataclass a pair, in the section a list.
    """
    return _field(default, low, high, is_range=True)


def _field(default, low, high, is_range: bool):
    whole = type(low) is type(high) is int
    limits = {"within": (low, high), "is_range": is_range, "is_whole": whole}
    return dataclasses.field(default=default, metadata=limits)
