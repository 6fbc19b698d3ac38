"""How much stage 2 still listens to the teachers of stage 1, and until when."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from espnet_mtkd.errors import ConfigError, shown, unknown_key
from espnet_mtkd.files import parse_yaml
from espnet_mtkd.objective.options import is_number

DECAYS = ("none", "linear", "cosine")
OPTION = "keep_teachers_conf"


@dataclasses.dataclass(frozen=True)
class KeptOptions:
    """The kept loss's weight over the training, and what else it is computed on.

    Attributes:
        weight: of the objective of stage 1, a mean over frames, beside transducer and
            CTC, which are sums over an utterance: so it has to be large.
        decay: `none`, `linear` or `cosine`: how the weight falls until `until`.
        until: share of the training's epochs, above 0 to 1; then the weight is 0.
        unlabelled: batches of stage 1's audio without text for each labelled one.
        targets_dir: of the stored targets, where they are not (or no more) where the
            config of stage 1 says.

    Raises:
        ConfigError: a value that means nothing; its key is named.
    """

    weight: float = 300.0
    decay: str = "none"
    until: float = 1.0
    unlabelled: float = 0.0
    targets_dir: str | None = None

    def __post_init__(self):
        """Refuse values that mean nothing."""
        self._expect("weight", "a finite number above 0", lambda x: 0 < x < math.inf)
        self._expect("until", "a number above 0, up to 1", lambda x: 0 < x <= 1)
        self._expect(
            "unlabelled", "a finite number from 0", lambda x: 0 <= x < math.inf
        )
        if not isinstance(self.decay, str) or self.decay not in DECAYS:
            raise ConfigError(
                f"{OPTION}.decay: expected {', '.join(DECAYS[:-1])} or {DECAYS[-1]}, "
                f"found {shown(self.decay)}"
            )
        if self.targets_dir is not None and not isinstance(self.targets_dir, str):
            raise ConfigError(
                f"{OPTION}.targets_dir: expected a directory, found "
                f"{shown(self.targets_dir)}"
            )

    def _expect(self, name: str, text: str, is_meant) -> None:
        value = getattr(self, name)
        if not is_number(value) or not is_meant(value):
            raise ConfigError(f"{OPTION}.{name}: expected {text}, found {shown(value)}")

    def weight_at(self, progress: float) -> float:
        """The weight when a share of the training's epochs, 0 to 1, has passed."""
        left = 1.0 - progress / self.until
        if left <= 0:
            return 0.0
        if self.decay == "linear":
            return self.weight * left
        if self.decay == "cosine":
            return self.weight * (1.0 - math.cos(math.pi * left)) / 2
        return self.weight


def parse_kept_options(conf: Mapping) -> KeptOptions:
    """Read `keep_teachers_conf`.

    Raises:
        ConfigError: an unknown key, with the closest one, or a value that means
            nothing.
    """
    known = [field.name for field in dataclasses.fields(KeptOptions)]
    if not isinstance(conf, Mapping):
        raise ConfigError(f"{OPTION}: expected a mapping, found {shown(conf)}")
    for key in conf:
        if key not in known:
            raise ConfigError(unknown_key(OPTION, key, known))
    return KeptOptions(**conf)


def parse_kept_words(words: Sequence[str]) -> KeptOptions:
    """Read what `mtkd.sh --keep_teachers` has: `<key>=<value>`, separated by spaces.

    Raises:
        ConfigError: see `parse_kept_options`; or a word of another form.
    """
    conf = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise ConfigError(
                "--keep_teachers: expected words <key>=<value>, as in 'weight=300 "
                f"decay=linear', found '{word}'"
            )
        conf[key] = parse_yaml(value, f"--keep_teachers {word}")
    return parse_kept_options(conf)
