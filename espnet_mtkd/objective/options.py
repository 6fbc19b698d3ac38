"""What `objective_conf` may say, and what is wrong with what it says."""

import dataclasses
import difflib
import math
import sys
from collections.abc import Iterable

from espnet_mtkd.errors import ConfigError, shown

STANDARDIZE = ("robust", "meanvar", "phi-s", "layernorm", "none")
HEADS = ("linear", "mlp")
BLOCKS = ("last", "ladder")  # or a list of numbers
MAX_HIDDEN = 1 << 16  # units
LAYERS = ("each", "mean", "mixed")
BALANCES = ("fixed", "running", "uncertainty", "drop")


@dataclasses.dataclass(frozen=True)
class ObjectiveOptions:
    """How targets are scaled, predicted and weighed; `objective_conf` of stage 1.

    Attributes:
        standardize: how each target is scaled, one of `STANDARDIZE`.
        clip: standardised values beyond this are cut to it; 0 cuts none.
        head: what predicts a target, one of `HEADS`.
        hidden: width of `mlp`; 0: four times the encoder's dimension.
        blocks: on which blocks of the student heads sit: one of `BLOCKS`, or a list of
            numbers from 1, a head for each on each.
        layers: `each` layer of a teacher is a target of its own, or one target is their
            plain `mean`, or a learnt one (`mixed`).
        balance: how the targets' losses are weighed, one of `BALANCES`.

    Raises:
        ConfigError: a value that none of these may have.
    """

    standardize: str = "robust"
    clip: float = 0.0
    head: str = "linear"
    hidden: int = 0
    blocks: str | tuple[int, ...] = "last"
    layers: str = "each"
    balance: str = "fixed"

    def __post_init__(self):
        for key, known in (
            ("standardize", STANDARDIZE),
            ("head", HEADS),
            ("layers", LAYERS),
            ("balance", BALANCES),
        ):
            check_name(f"objective_conf.{key}", getattr(self, key), known)
        if not is_number(self.clip) or not 0 <= self.clip < math.inf:
            raise ConfigError(
                "objective_conf.clip: expected a finite number >= 0 (0: nothing is "
                f"cut), found {shown(self.clip)}"
            )
        if not is_integer(self.hidden) or not 0 <= self.hidden <= MAX_HIDDEN:
            raise ConfigError(
                f"objective_conf.hidden: expected an integer >= 0, up to {MAX_HIDDEN} "
                "(0: four times the encoder's dimension), found "
                f"{shown(self.hidden)}"
            )
        if not isinstance(self.blocks, (list, tuple)):
            where, other = "objective_conf.blocks", "or a list of numbers from 1"
            check_name(where, self.blocks, BLOCKS, other)
            return
        numbers = list(self.blocks)
        if (
            not numbers
            or not all(is_integer(n) and n >= 1 for n in numbers)
            or len(set(numbers)) != len(numbers)
        ):
            raise ConfigError(
                "objective_conf.blocks: expected numbers from 1, each once, or one of "
                f"{', '.join(BLOCKS)}, found {shown(numbers)}"
            )
        object.__setattr__(self, "blocks", tuple(sorted(numbers)))

    def block_numbers(self, num_blocks: int | None) -> tuple[int, ...] | None:
        """The blocks that heads sit on.

        Args:
            num_blocks: of the student; None where it is not known.

        Returns:
            Their numbers from 1, ascending; None: on the encoder's output alone.

        Raises:
            ConfigError: a block that is not there.
        """
        if self.blocks == "last":
            return None
        if num_blocks is None:
            raise ConfigError(
                "objective_conf.blocks: expected last where the encoder's output alone "
                f"is at hand, found {self.blocks}"
            )
        if self.blocks == "ladder":
            return tuple(range(1, num_blocks + 1))
        absent = [n for n in self.blocks if n > num_blocks]
        if absent:
            raise ConfigError(
                f"objective_conf.blocks: the student has the blocks 1 to {num_blocks}, "
                f"found {shown(absent)}: correct the list, or raise "
                "encoder_conf.num_blocks"
            )
        return self.blocks


def read_options(conf) -> ObjectiveOptions:
    """The options that a config's section has.

    Args:
        conf: `objective_conf`.

    Raises:
        ConfigError: an unknown key or value; the closest and all known ones are named.
    """
    known = [field.name for field in dataclasses.fields(ObjectiveOptions)]
    check_keys("objective_conf", conf, known)
    return ObjectiveOptions(**conf)


def check_keys(where: str, conf, known: Iterable[str]) -> None:
    """Refuse a section that is no mapping, or has a key that means nothing.

    Args:
        where: name of the section, for the message.
        conf: the section.
        known: all keys that it may have.

    Raises:
        ConfigError: naming the closest key and all of them.
    """
    if not isinstance(conf, dict):
        raise ConfigError(f"{where}: expected a mapping, found {shown(conf)}")
    for key in conf:
        check_name(f"{where}: key", key, known)


def check_name(where: str, found, known: Iterable[str], other: str = "") -> None:
    """Refuse a name that is not known.

    Args:
        where: of the config, for the message.
        found: the name.
        known: all good ones.
        other: what else may stand there, for the message.

    Raises:
        ConfigError: naming the closest and all good ones.
    """
    known = list(known)
    if isinstance(found, str) and found in known:
        return
    text = found if isinstance(found, str) else shown(found)
    close = difflib.get_close_matches(text, known, n=1)
    hint = f": did you mean '{close[0]}'?" if close else ""
    raise ConfigError(
        f"{where}: expected one of {', '.join(known)}{' ' * bool(other)}{other}, found "
        f"{shown(found)}{hint}"
    )


def is_integer(x) -> bool:
    """Whether it is an integer, which True and False are not."""
    return isinstance(x, int) and not isinstance(x, bool)


def is_number(x) -> bool:
    """Whether it is a number that a float can hold, which True and False are not."""
    if isinstance(x, int):
        return not isinstance(x, bool) and abs(x) <= sys.float_info.max
    return isinstance(x, float)
