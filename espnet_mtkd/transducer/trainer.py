"""ESPnet's trainer, with what distillation can know before the first step."""

import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path

from espnet2.utils.build_dataclass import build_dataclass

from espnet_mtkd.data.kaldi import read_lengths, read_lines
from espnet_mtkd.data.listed import check_listed, read_samples
from espnet_mtkd.errors import DataError, name_ten
from espnet_mtkd.pretraining.datasets import data_set_name
from espnet_mtkd.student.lengths import least_samples, refuse_short
from espnet_mtkd.targets.drift import check_teachers
from espnet_mtkd.training.checkpoints import CHECKPOINT
from espnet_mtkd.training.position import length_of, skip
from espnet_mtkd.training.schedule import is_first_process
from espnet_mtkd.training.trainer import SurvivingOptions, SurvivingTrainer

AT_16_KHZ = ("16000", "16k")


@dataclasses.dataclass
class DistillingTrainerOptions(SurvivingOptions):
    """ESPnet's, where audio and lengths of the data stand, and what hears them."""

    frontend: str
    frontend_conf: dict
    encoder_conf: dict

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
            DataError: see `check_data`.
            TargetStoreError, DataError: see `PathStores.check_lengths` and
                `KeptTeachers.check_training`.
        """
        check_data(trainer_options)
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


def check_data(options: DistillingTrainerOptions) -> None:
    """Refuse data that would end the training half way.

    Args:
        options: of the training.

    Raises:
        DataError: utterances without a line in one of the files, too short for the
            student, or whose audio `check_listed` refuses. The first ten are named.
    """
    least = least_samples(vars(options))
    is_at_16_khz = str(options.frontend_conf.get("fs", 16000)).lower() in AT_16_KHZ
    for part in ("train", "valid"):
        sources = getattr(options, f"{part}_data_path_and_name_and_type")
        shapes = getattr(options, f"{part}_shape_file")[:1]
        for shape in (x for x in map(Path, shapes) if x.is_file()):
            lengths = read_samples(shape)
            for path, _, kind in sources:
                if kind == "text" and Path(path).is_file():
                    check_text(Path(path), lengths, shape)
            path, name, kind = sources[0]
            if (name, kind) != ("speech", "sound") or not is_at_16_khz:
                continue
            if least is not None:
                refuse_short(shape, lengths, least, "this training")
            check_listed(Path(path), lengths, shape, Path(options.output_dir))


def check_text(path: Path, utts: Collection[str], shape_file: Path) -> None:
    """Refuse utterances that have no line in a Kaldi `text`.

    Raises:
        DataError: naming the first ten; see `read_lines` too.
    """
    texts = read_lines(path, "a Kaldi text")
    missing = [utt for utt in utts if utt not in texts]
    if missing:
        raise DataError(
            f"{path}: no line for {len(missing)} utterances of {shape_file}: "
            f"{name_ten(missing)}: add them, or take their lines out of {shape_file}"
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
        # (Now, not with the first batch: a loader draws its seed when that is made.)
        return self._tell_progress(iter(skip(self.batches, first)), first)

    def _tell_progress(self, batches: Iterator, first: int) -> Iterator:
        num_batches = length_of(self.batches)
        for i, item in enumerate(batches, first):
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
