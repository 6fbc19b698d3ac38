"""Which data set a batch is of: an id may stand in several, for several recordings."""

from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError


class NamedCollateFn:
    """A collate function that puts the data set's name before each utterance id.

    Teachers know an utterance as `<data set>/<id>`, so that the memory of targets and
    the stores tell apart what training and validation set call by one id.

    Args:
        name: of the data set.
        collate_fn: ESPnet's: [(id, {name: array}), ...] -> (ids, batch).
        ears: gives what the student hears, as `heard` beside the clean `speech`, by
            (`<data set>/<id>`, speech, epoch); None: it hears what teachers hear.
        epoch: that the batches are of, from 1.
    """

    def __init__(self, name: str, collate_fn, ears=None, epoch: int = 1):
        self.name = name
        self.collate_fn = collate_fn
        self.ears = ears
        self.epoch = epoch

    def at(self, epoch: int) -> "NamedCollateFn":
        """The same for another epoch; loaders that were built keep theirs."""
        return NamedCollateFn(self.name, self.collate_fn, self.ears, epoch)

    def __call__(self, data):
        """See `collate_fn`; and `num_samples`, the lengths on the host."""
        named = [(f"{self.name}/{utt}", item) for utt, item in data]
        if self.ears is not None:
            named = [
                (utt, {**item, "heard": self.ears(utt, item["speech"], self.epoch)})
                for utt, item in named
            ]
        utts, batch = self.collate_fn(named)
        # (a tuple, which stays on the host when the batch goes to a GPU)
        num_samples = tuple(len(item["speech"]) for _, item in named)
        return utts, {**batch, "num_samples": num_samples}


def data_set_name(wav_scp: str | Path) -> str:
    """Name of the data set that a `wav.scp` is of: its directory's."""
    return Path(wav_scp).resolve().parent.name


def check_names(wav_scps: Sequence[str]) -> None:
    """Refuse data sets that have one name.

    Args:
        wav_scps: of training, validation and unlabelled sets.

    Raises:
        ConfigError: naming both.
    """
    seen: dict[str, str] = {}
    for path in wav_scps:
        other = seen.setdefault(data_set_name(path), path)
        if Path(other).resolve() != Path(path).resolve():
            raise ConfigError(
                f"{other}, {path}: the directories of two data sets have one name, by "
                "which their utterances are told apart: rename one of them"
            )
