"""ESPnet's trainer, with what distillation can know before the first step."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from espnet2.utils.build_dataclass import build_dataclass

from espnet_mtkd.data.kaldi import read_lengths
from espnet_mtkd.pretraining.datasets import data_set_name
from espnet_mtkd.targets.drift import check_teachers
from espnet_mtkd.training.checkpoints import CHECKPOINT
from espnet_mtkd.training.position import length_of, skip
from espnet_mtkd.training.schedule import is_first_process
from espnet_mtkd.training.trainer import SurvivingOptions, SurvivingTrainer


@dataclasses.dataclass
class DistillingTrainerOptions(SurvivingOptions):
    """ESPnet's, and where audio and lengths of the data stand."""

    train_data_path_and_name_and_type: list
    train_shape_file: list
    valid_data_path_and_name_and_type: list
    valid_shape_file: list


class DistillingTrainer(SurvivingTrainer):
    """Looks whether every utterance has its targets, then trains as ESPnet does."""

    @classmethod
    def build_options(cls, args):
        """ESPnet's options, and where the data are."""
        return build_dataclass(DistillingTrainerOptions, args)

    @classmethod
    def run(cls, model, trainer_options, **kwargs):
        """Same arguments as `Trainer.run`.

        Raises:
            ConfigError: see `check_teachers`.
            TargetStoreError, DataError: see `PathStores.check_lengths` and
                `KeptTeachers.check_training`.
        """
        for name, shape, is_training in data_sets(trainer_options):
            if model.paths is not None and is_training:
                model.paths.check_lengths(shape, read_lengths(shape))
            if model.kept is not None and is_training:
                model.kept.check_training(name, read_lengths(shape))
            elif model.kept is not None:
                model.kept.check_validation(name, read_lengths(shape))
        folder = Path(trainer_options.output_dir)
        resumes = trainer_options.resume and (folder / CHECKPOINT).exists()
        if model.kept is not None and is_first_process():
            check_teachers(model.kept.teachers, folder, resumes)
        super().run(model=model, trainer_options=trainer_options, **kwargs)

    @classmethod
    def train_one_epoch(cls, model, iterator, reporter, options, **kwargs):
        """As ESPnet's; kept teachers know how much of the training has passed."""
        kept = getattr(model, "module", model).kept  # within DDP
        if kept is not None:
            epoch = reporter.get_epoch()
            iterator = Timed(iterator, kept, epoch - 1, options.max_epoch)
        return super().train_one_epoch(
            model=model, iterator=iterator, reporter=reporter, options=options, **kwargs
        )


class Timed:
    """Batches of an epoch; sets `progress` of the kept teachers before each.

    Args:
        batches: as ESPnet's data loaders give them.
        kept: `KeptTeachers`.
        num_done: epochs that have passed.
        num_epochs: of the whole training.
    """

    def __init__(self, batches, kept, num_done: int, num_epochs: int):
        self.batches, self.kept = batches, kept
        self.num_done, self.num_epochs = num_done, num_epochs

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator:
        return self.skip(0)

    def skip(self, first: int) -> Iterator:
        """Iterate over what comes behind the first batches, which are not read."""
        num_batches = length_of(self.batches)
        for i, item in enumerate(skip(self.batches, first), first):
            done = self.num_done + (i / num_batches if num_batches else 0.0)
            self.kept.progress = done / self.num_epochs
            yield item


def data_sets(options: DistillingTrainerOptions) -> Iterator[tuple[str, Path, bool]]:
    """Name, file of lengths, and whether it is trained on, of each set that has one."""
    for part in ("train", "valid"):
        shapes = getattr(options, f"{part}_shape_file")[:1]
        scp, *_ = getattr(options, f"{part}_data_path_and_name_and_type")[0]
        for shape in map(Path, shapes):
            if shape.is_file():  # a folder: ESPnet's --multiple_iterator
                yield data_set_name(scp), shape, part == "train"
