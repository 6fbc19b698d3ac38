"""ESPnet's trainer, with what distillation needs before the first epoch."""

import logging
from pathlib import Path

import torch
from espnet2.torch_utils.device_funcs import to_device
from espnet2.utils.build_dataclass import build_dataclass

from espnet_mtkd.errors import NonFiniteError
from espnet_mtkd.pretraining.check import (
    CheckedBatches,
    MTKDTrainerOptions,
    check_accumulation,
    check_data,
    check_headers,
    data_sets,
)
from espnet_mtkd.targets.drift import check_teachers
from espnet_mtkd.targets.precision import check_live_precision
from espnet_mtkd.training.position import length_of
from espnet_mtkd.training.schedule import is_first_process
from espnet_mtkd.training.trainer import SurvivingTrainer
from espnet_mtkd.training.watch import what_to_do

STANDARDIZE_UTTERANCES = 512  # sample from which the targets' statistics are taken


class MTKDTrainer(SurvivingTrainer):
    """Fits the target statistics, then trains as ESPnet does."""

    @classmethod
    def run(cls, model, train_iter_factory, trainer_options, **kwargs):
        """Same arguments as `Trainer.run`.

        Raises:
            NonFiniteError: see `SurvivingTrainer.run`.
            ConfigError, DataError, TargetStoreError: see `check_accumulation`,
                `check_data`, `check_teachers` and `check_live_precision`, which come
                before the first step.
        """
        checkpoint = Path(trainer_options.output_dir) / "checkpoint.pth"
        resumes = trainer_options.resume and checkpoint.exists()
        if is_first_process():
            check_teachers(model.teachers, checkpoint.parent, resumes)
        check_data(model, trainer_options)
        first = train_iter_factory.build_iter(1, shuffle=True)
        num_batches = length_of(first)
        if num_batches is not None:
            check_accumulation(num_batches, trainer_options.accum_grad)
        device = "cuda" if trainer_options.ngpu > 0 else "cpu"
        if not resumes:
            batches = cls.checked(first, trainer_options)
            check_live_precision(model.teachers, batches, device)
            if not model.objective.is_standardized:
                fit_standardizers(model, batches, device)
        super().run(
            model=model,
            train_iter_factory=train_iter_factory,
            trainer_options=trainer_options,
            **kwargs,
        )

    @classmethod
    def build_options(cls, args):
        """ESPnet's options, and what `check_data` has to know."""
        return build_dataclass(MTKDTrainerOptions, args)

    @classmethod
    def checked(cls, iterator, options) -> CheckedBatches:
        """The batches of an iterator, each looked at."""

        def explain():
            for data in data_sets(options):
                check_headers(data)

        return CheckedBatches(iterator, explain)

    @classmethod
    def validate_one_epoch(cls, model, iterator, options, **kwargs):
        """As ESPnet's; see `CheckedBatches`."""
        iterator = cls.checked(iterator, options)
        super().validate_one_epoch(
            model=model, iterator=iterator, options=options, **kwargs
        )

    @classmethod
    def train_one_epoch(cls, model, iterator, options, **kwargs):
        """One epoch of `Trainer`, which skips steps with non-finite gradients.

        Raises:
            NonFiniteError: all of them were skipped; ESPnet would end with exit code 0.
        """
        iterator = cls.checked(iterator, options)
        if super().train_one_epoch(
            model=model, iterator=iterator, options=options, **kwargs
        ):
            raise NonFiniteError(
                "no step of this epoch had finite gradients: expected a finite loss: "
                + what_to_do(Path(options.output_dir))
            )
        return False


@torch.no_grad()
def fit_standardizers(model, iterator, device: str) -> None:
    """Set the statistics of each target from the first utterances.

    Args:
        model: `ESPnetMTKDModel`.
        iterator: gives (utterance ids, batch) as ESPnet's data loaders do.
        device: where the teachers are to run.

    Raises:
        NonFiniteError, ConfigError: see `DistillationObjective.fit`.
    """
    num_utts = 0
    for utt_ids, batch in iterator:
        batch = to_device(batch, device)
        model.observe_targets(batch["speech"], batch["speech_lengths"], utt_ids)
        num_utts += len(utt_ids)
        if num_utts >= STANDARDIZE_UTTERANCES:
            break
    for name, text in model.objective.fit().items():
        logging.info("target %s: %s (%d utterances)", name, text, num_utts)
