"""ESPnet's ASR task for stage 2 with more than plain fine-tuning.

What it saves is a stock ESPnet model with a stock config, except for a teacher
transducer, whose frontend is this package's.
"""

import argparse
import inspect
import logging
import math
from pathlib import Path

import espnet2.tasks.asr as espnet_asr
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import str_or_none

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.pretraining.launch import SpawnedErrors
from espnet_mtkd.pretraining.task import ITERATOR_TYPES, explain_data
from espnet_mtkd.training.schedule import AutomaticSteps
from espnet_mtkd.transducer.frontend import TeacherFrontend
from espnet_mtkd.transducer.kept import (
    build_kept_teachers,
    read_stage1,
    save_with_optimizer,
)
from espnet_mtkd.transducer.kept_data import join_unlabelled
from espnet_mtkd.transducer.kept_options import parse_kept_options
from espnet_mtkd.transducer.model import ESPnetMTKDTransducerModel, PathKDConfig
from espnet_mtkd.transducer.paths import PathStores
from espnet_mtkd.transducer.rnnt import can_slice
from espnet_mtkd.transducer.steps import scale_steps
from espnet_mtkd.transducer.trainer import DistillingTrainer

MODEL = "mtkd_transducer"
STOCK_MODEL = "espnet"


def register() -> None:
    """Make ESPnet's ASR task know this package's frontend and model."""
    espnet_asr.frontend_choices.classes["mtkd_teacher"] = TeacherFrontend
    espnet_asr.model_choices.classes[MODEL] = ESPnetMTKDTransducerModel


class MTKDASRTask(SpawnedErrors, AutomaticSteps, espnet_asr.ASRTask):
    """`ASRTask` with path distillation, kept teachers, slices and teacher frontends."""

    trainer = DistillingTrainer

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
            "--keep_teachers_from",
            type=str_or_none,
            default=None,
            help="Checkpoint of stage 1 (config.yaml beside it): its loss goes on "
            "beside the transducer's, with its heads, statistics and targets",
        )
        group.add_argument(
            "--keep_teachers_conf",
            action=NestedDictAction,
            default=dict(),
            help="weight (300), decay (none, linear, cosine), until (1: share of the "
            "epochs), unlabelled (0: batches for each labelled one), targets_dir",
        )
        group.add_argument(
            "--transducer_loss",
            type=str,
            default="sliced",
            choices=["plain", "sliced"],
            help="sliced: joint network and loss a few nodes of the lattice at a time; "
            "same value, same gradients, less memory and time. plain: ESPnet's own",
        )
        group.add_argument(
            "--encoder_lr_scale",
            type=float,
            default=1.0,
            help="Factor of the encoder's learning rate: below 1 a pre-trained encoder "
            "changes less than what begins at random",
        )

    @classmethod
    def build_model(cls, args: argparse.Namespace):
        """As `ASRTask.build_model`.

        Raises:
            ConfigError: no transducer, an unknown key of `path_kd_conf` or
                `keep_teachers_conf`, or a teacher with another token list; see
                `build_kept_teachers` too.
            TargetStoreError: no paths in `path_targets_dir`, or no stored targets.
        """
        register()
        if getattr(args, "model", STOCK_MODEL) != STOCK_MODEL:
            raise ConfigError(f"model: expected {STOCK_MODEL}, found {args.model}")
        try:
            kd = PathKDConfig(**args.path_kd_conf)
        except TypeError as e:  # another key, or no mapping
            raise ConfigError(f"path_kd_conf: {str(e)[:300]}") from e
        if args.path_kd_conf and args.path_targets_dir is None:
            raise ConfigError(
                "path_kd_conf: nothing is distilled without path_targets_dir (mtkd.sh: "
                "--kd_teacher_exp)"
            )
        options = parse_kept_options(args.keep_teachers_conf)
        check_kept(args)
        check_intermediate_ctc(args)
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
        model.is_sliced = args.transducer_loss == "sliced" and can_slice(model)
        if args.path_targets_dir is not None:
            paths = PathStores(args.path_targets_dir)
            paths.check_tokens(args.token_list)
            model.distil_from(paths, kd)
            logging.info("path distillation: %s, %d utterances", kd, len(paths))
        if keeps_teachers(args):
            checkpoint = Path(args.keep_teachers_from)
            model.keep_teachers(build_kept_teachers(checkpoint, args, model, options))
            logging.info("kept teachers: %s, of %s", options, checkpoint)
            num = sum(x.numel() for x in model.kept.parameters())
            # (`results.intervals.costs` reads this)
            logging.info("heads that are dropped at saving: %d parameters", num)
        elif args.keep_teachers_from is not None:
            logging.info("the encoder is frozen: its teachers are left out")
        leave_out_intermediate_ctc(args)
        return model

    @classmethod
    def build_optimizers(cls, args: argparse.Namespace, model):
        """ESPnet's, with `encoder_lr_scale`; heads are saved with the state."""
        optimizers = super().build_optimizers(args, model)
        save_with_optimizer(optimizers[0], model.kept)
        if args.encoder_lr_scale != 1.0:
            encoder = model.encoder.parameters()
            scale_steps(optimizers[0], encoder, args.encoder_lr_scale)
        return optimizers

    @classmethod
    def build_iter_factory(cls, args, distributed_option, mode, kwargs=None):
        """ESPnet's, with stage 1's audio without text beside it, where it is asked for.

        Args:
            args, distributed_option, mode, kwargs: see `AbsTask.build_iter_factory`.

        Raises:
            DataError: a list that cannot be read, with file and line.
        """
        try:
            factory = super().build_iter_factory(args, distributed_option, mode, kwargs)
        except (ValueError, RuntimeError, AssertionError, OSError):
            explain_data(args, mode)  # where they are to blame
            raise
        options = parse_kept_options(args.keep_teachers_conf)
        if mode != "train" or not options.unlabelled or not keeps_teachers(args):
            return factory
        stage1 = read_stage1(Path(args.keep_teachers_from), options)
        ratio = options.unlabelled
        return join_unlabelled(factory, args, stage1, ratio, distributed_option)


def keeps_teachers(args: argparse.Namespace) -> bool:
    """Whether teachers are kept: to a frozen encoder they have nothing to say."""
    return args.keep_teachers_from is not None and "encoder" not in args.freeze_param


def check_kept(args: argparse.Namespace) -> None:
    """Refuse options of the kept teachers that do not go together.

    Raises:
        ConfigError: settings without a stage 1, or chunks in place of utterances.
    """
    if args.keep_teachers_from is None and args.keep_teachers_conf:
        raise ConfigError(
            "keep_teachers_conf: no teacher is kept without keep_teachers_from, a "
            "checkpoint of stage 1 (mtkd.sh: --keep_teachers)"
        )
    for name in ("iterator_type", "valid_iterator_type"):
        found = getattr(args, name, None)
        if args.keep_teachers_from is not None and found not in ITERATOR_TYPES:
            raise ConfigError(
                f"{name}: expected sequence or category, found {found}: targets belong "
                "to whole utterances, by whose ids they are found"
            )


def check_intermediate_ctc(args: argparse.Namespace) -> None:
    """Refuse an intermediate CTC loss of no block, which ESPnet would leave out.

    Raises:
        ConfigError: a weight, but no blocks, or an encoder that gives none out.
    """
    if not args.model_conf.get("interctc_weight"):
        return
    name = "interctc_layer_idx"
    encoder = espnet_asr.encoder_choices.get_class(args.encoder)
    if name not in inspect.signature(encoder).parameters:
        raise ConfigError(
            f"model_conf.interctc_weight: expected 0, for ESPnet's '{args.encoder}' "
            f"has no intermediate outputs, found {args.model_conf['interctc_weight']}: "
            "leave it out, or train a Conformer"
        )
    if not args.encoder_conf.get(name):
        raise ConfigError(
            f"encoder_conf.{name}: expected blocks, such as [3], found none, for "
            f"model_conf.interctc_weight is {args.model_conf['interctc_weight']}"
        )


def leave_out_intermediate_ctc(args: argparse.Namespace) -> None:
    """Take intermediate CTC out of what becomes config.yaml: it adds no parameters, and
    ESPnet's `asr_inference` breaks on a transducer whose encoder has it."""
    if args.encoder_conf.get("interctc_layer_idx"):
        layers, weight = "interctc_layer_idx", "interctc_weight"
        logging.info(
            "intermediate CTC: blocks %s, weight %s; not in config.yaml, as decoding "
            "has no use for it",
            args.encoder_conf[layers],
            args.model_conf.get(weight, 0.0),
        )
        args.encoder_conf = {k: v for k, v in args.encoder_conf.items() if k != layers}
        args.model_conf = {k: v for k, v in args.model_conf.items() if k != weight}
