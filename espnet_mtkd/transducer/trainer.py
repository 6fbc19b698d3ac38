"""ESPnet's trainer, with what path distillation can know before the first step."""

import dataclasses
from pathlib import Path

from espnet2.utils.build_dataclass import build_dataclass

from espnet_mtkd.data.kaldi import read_lengths
from espnet_mtkd.training.trainer import SurvivingOptions, SurvivingTrainer


@dataclasses.dataclass
class PathTrainerOptions(SurvivingOptions):
    """ESPnet's, and where the lengths of the training set stand."""

    train_shape_file: list


class PathTrainer(SurvivingTrainer):
    """Looks whether every utterance has its path, then trains as ESPnet does."""

    @classmethod
    def build_options(cls, args):
        """ESPnet's options, and the shape files."""
        return build_dataclass(PathTrainerOptions, args)

    @classmethod
    def run(cls, model, trainer_options, **kwargs):
        """Same arguments as `Trainer.run`.

        Raises:
            TargetStoreError: see `PathStores.check_lengths`.
        """
        shapes = [Path(path) for path in trainer_options.train_shape_file[:1]]
        # A folder is ESPnet's --multiple_iterator.
        for path in shapes if model.paths is not None else []:
            if path.is_file():
                model.paths.check_lengths(path, read_lengths(path))
        super().run(model=model, trainer_options=trainer_options, **kwargs)
