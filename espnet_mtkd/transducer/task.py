"""ESPnet's ASR task for stage 2 with more than plain fine-tuning.

What it saves is a stock ESPnet model with a stock config, except for a teacher
transducer, whose frontend is this package's.
"""

import argparse
import logging
import math

import espnet2.tasks.asr as espnet_asr
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str_or_none

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.pretraining.launch import SpawnedErrors
from espnet_mtkd.training.schedule import AutomaticSteps
from espnet_mtkd.transducer.frontend import TeacherFrontend
from espnet_mtkd.transducer.model import ESPnetMTKDTransducerModel, PathKDConfig
from espnet_mtkd.transducer.paths import PathStores
from espnet_mtkd.transducer.steps import scale_steps
from espnet_mtkd.transducer.trainer import PathTrainer

MODEL = "mtkd_transducer"
STOCK_MODEL = "espnet"


def register() -> None:
    """Make ESPnet's ASR task know this package's frontend and model."""
    espnet_asr.frontend_choices.classes["mtkd_teacher"] = TeacherFrontend
    espnet_asr.model_choices.classes[MODEL] = ESPnetMTKDTransducerModel


class MTKDASRTask(SpawnedErrors, AutomaticSteps, espnet_asr.ASRTask):
    """`ASRTask` with path distillation, the loss in slices and teacher frontends."""

    trainer = PathTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        register()
        super().add_task_arguments(parser)
        group = parser.add_argument_group("Distillation related")
        group.add_argument(
            "--path_targets_dir",
            type=str_or_none,
            default=None,
            help="Distil from the paths that mtkd_extract_paths wrote there",
        )
        group.add_argument(
            "--path_kd_conf",
            action=NestedDictAction,
            default=dict(),
            help="weight (0.5), temperature (1), time_shift (0 frames), variant (topk, "
            "collapsed)",
        )
        group.add_argument(
            "--transducer_loss",
            type=str,
            default="plain",
            choices=["plain", "sliced"],
            help="sliced: joint network and loss for a few utterances at a time, where "
            "memory is short; same value, same gradients",
        )
        group.add_argument(
            "--encoder_lr_scale",
            type=float,
            default=1.0,
            help="Factor of the encoder's learning rate: below 1 a pre-trained encoder "
            "changes less than what begins at random",
        )

    @classmethod
    def build_optimizers(cls, args: argparse.Namespace, model):
        """ESPnet's, with `encoder_lr_scale`."""
        optimizers = super().build_optimizers(args, model)
        if args.encoder_lr_scale != 1.0:
            for optimizer in optimizers:
                scale_steps(
                    optimizer, model.encoder.parameters(), args.encoder_lr_scale
                )
        return optimizers

    @classmethod
    def build_model(cls, args: argparse.Namespace):
        """As `ASRTask.build_model`.

        Raises:
            ConfigError: no transducer, an unknown key of `path_kd_conf`, or a teacher
                with another token list.
            TargetStoreError: no paths in `path_targets_dir`.
        """
        register()
        if getattr(args, "model", STOCK_MODEL) != STOCK_MODEL:
            raise ConfigError(f"model: expected {STOCK_MODEL}, found {args.model}")
        try:
            kd = PathKDConfig(**args.path_kd_conf)
        except TypeError as e:
            raise ConfigError(f"path_kd_conf: {e}") from e
        if args.path_kd_conf and args.path_targets_dir is None:
            raise ConfigError(
                "path_kd_conf: nothing is distilled without path_targets_dir (mtkd.sh: "
                "--kd_teacher_exp)"
            )
        if args.decoder != "transducer":
            raise ConfigError(f"decoder: expected transducer, found {args.decoder}")
        if not 0 < args.encoder_lr_scale < math.inf:
            raise ConfigError(
                "encoder_lr_scale: expected a finite number above 0, found "
                f"{args.encoder_lr_scale}; to keep the encoder as it is: "
                "--freeze_param encoder"
            )
        args.model = MODEL
        try:
            model = super().build_model(args)
        finally:
            args.model = STOCK_MODEL
        model.is_sliced = args.transducer_loss == "sliced"
        if args.path_targets_dir is not None:
            paths = PathStores(args.path_targets_dir)
            paths.check_tokens(args.token_list)
            model.distil_from(paths, kd)
            logging.info("path distillation: %s, %d utterances", kd, len(paths))
        return model
