"""The ESPnet2 task of stage 1: arguments, choices, data and `build_model`."""

import argparse
import logging
import math
from pathlib import Path

import torch
from espnet2.tasks.abs_task import AbsTask
from espnet2.torch_utils.initialize import initialize
from espnet2.train.collate_fn import CommonCollateFn

from espnet_mtkd.augment.masks import parse_mask_options
from espnet_mtkd.data.kaldi import read_lines, read_wav_scp
from espnet_mtkd.data.listed import read_samples
from espnet_mtkd.errors import ConfigError, shown
from espnet_mtkd.files import read_yaml
from espnet_mtkd.objective.losses import CodebookLoss, EmbeddingLoss
from espnet_mtkd.objective.options import check_keys, read_options
from espnet_mtkd.pretraining.arguments import add_distillation_arguments
from espnet_mtkd.pretraining.datasets import (
    NamedCollateFn,
    check_names,
    data_set_name,
)
from espnet_mtkd.pretraining.heard import EpochIterFactory, build_ears, check_noise
from espnet_mtkd.pretraining.launch import SpawnedErrors
from espnet_mtkd.pretraining.mixing import MixedIterFactory
from espnet_mtkd.pretraining.model import ESPnetMTKDModel
from espnet_mtkd.pretraining.trainer import MTKDTrainer
from espnet_mtkd.student.build import (
    build_student,
    encoder_choices,
    frontend_choices,
    normalize_choices,
    specaug_choices,
)
from espnet_mtkd.student.frames import describe_alignment, describe_latency
from espnet_mtkd.targets.teacher import CachedTeacher
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.memory import TargetMemory
from espnet_mtkd.teachers.s3prl import S3PRLTeacher, TeacherPool
from espnet_mtkd.training.schedule import AutomaticSteps

ITERATOR_TYPES = ("sequence", "category", "none", None)  # none: of the caller's own


class MTKDTask(SpawnedErrors, AutomaticSteps, AbsTask):
    """Multi-teacher knowledge distillation into an ESPnet encoder, from audio alone."""

    num_optimizers = 1
    class_choices_list = [
        frontend_choices,
        specaug_choices,
        normalize_choices,
        encoder_choices,
    ]
    trainer = MTKDTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser):
        group = parser.add_argument_group("Task related")
        required = parser.get_default("required")
        required += ["teachers"]
        add_distillation_arguments(group)
        for class_choices in cls.class_choices_list:
            class_choices.add_arguments(group)

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool):
        return CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool):
        return None

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False):
        return ("speech",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False):
        return ()

    @classmethod
    def build_iter_options(cls, args, distributed_option, mode):
        """ESPnet's; utterance ids have the data set's name before them.

        Args:
            args, distributed_option, mode: see `AbsTask.build_iter_options`.
        """
        options = super().build_iter_options(args, distributed_option, mode)
        name = data_set_name(options.data_path_and_name_and_type[0][0])
        options.collate_fn = NamedCollateFn(name, options.collate_fn)
        return options

    @classmethod
    def build_iter_factory(cls, args, distributed_option, mode, kwargs=None):
        """ESPnet's; for training with noise, and with unlabelled audio mixed in.

        Args:
            args, distributed_option, mode, kwargs: see `AbsTask.build_iter_factory`.

        Raises:
            ConfigError: see `build_ears`.
            DataError: a wav.scp or a file of lengths that cannot be read.
        """

        def build(*arguments):
            try:
                return build_by_espnet(*arguments)
            except (ValueError, RuntimeError, OSError):
                explain_data(args, mode)  # with file and line, where they are to blame
                raise

        build_by_espnet = super().build_iter_factory
        if mode != "train":
            return build(args, distributed_option, mode, kwargs)
        ears = build_ears(args)

        def collate(scp):
            clean = cls.build_collate_fn(args, train=True)
            return NamedCollateFn(data_set_name(scp), clean, ears)

        scp = args.train_data_path_and_name_and_type[0][0]
        kwargs = {"collate_fn": collate(scp), **(kwargs or {})}
        factory = build(args, distributed_option, mode, kwargs)
        if ears is not None:
            factory = EpochIterFactory(factory)
        if not args.unlabelled_wav_scp:
            return factory
        unlabelled = [
            build(
                args,
                distributed_option,
                mode,
                {
                    "data_path_and_name_and_type": [(scp, "speech", "sound")],
                    "shape_files": [shape],
                    "collate_fn": collate(scp),
                },
            )
            for scp, shape in zip(
                args.unlabelled_wav_scp, args.unlabelled_shape_file, strict=True
            )
        ]
        return MixedIterFactory(factory, unlabelled, args.unlabelled_ratio, args.seed)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetMTKDModel:
        """Build student and teachers.

        Args:
            args: ESPnet's arguments; `args.teachers` becomes a plain list, so that the
                saved config.yaml stands on its own.

        Returns:
            The model of stage 1.

        Raises:
            ConfigError: see `check_config`, `parse_mask_options`, `check_noise`,
                `parse_teachers`, `check_upstream`.
        """
        if args.student_config is not None:
            read_student_config(args)
        check_config(args)
        masks = parse_mask_options(args.mask_conf)
        check_noise(args)
        configs = parse_teachers(args.teachers)
        args.teachers = [
            {**vars(c), "layers": None if c.layers is None else list(c.layers)}
            for c in configs
        ]
        objective = objective_options(args)
        teachers = load_teachers(args, configs)
        frontend, specaug, normalize, encoder = build_student(args)
        model = ESPnetMTKDModel(
            frontend=frontend,
            specaug=specaug,
            normalize=normalize,
            encoder=encoder,
            teachers=teachers,
            masks=masks,
            **objective,
        )
        logging.info(
            "student: %s", describe_latency(encoder, model.frames, args.target_delay)
        )
        for spec in teachers.targets:
            logging.info(
                "target %s: %s",
                spec.name,
                describe_alignment(
                    spec, model.frames, model.objective.aligners[spec.name]
                ),
            )
        if args.init is not None:
            initialize(model, args.init)
        return model


def load_teachers(args: argparse.Namespace, configs):
    """The teachers of a stage 1: its stored targets, or live ones with their memory.

    Args:
        args: of stage 1, as its `config.yaml` has them.
        configs: of `parse_teachers`.

    Raises:
        ConfigError, TargetStoreError: see `S3PRLTeacher` and `CachedTeacher`.
    """
    if args.targets_dir is None:

        def load(config):
            teacher = S3PRLTeacher(config)
            teacher.dtype = getattr(torch, teacher_dtype(args))
            return teacher

        return TargetMemory(TeacherPool(configs, load), args.teacher_memory_mb * 10**6)
    as_codes = args.target_type == "codes"
    with_codes = objective_options(args)["loss"].codes > 0
    return TeacherPool(
        configs, lambda c: CachedTeacher(c, args.targets_dir, as_codes, with_codes)
    )


def teacher_dtype(args: argparse.Namespace) -> str:
    """Of live teachers; a config of an earlier version names none."""
    return getattr(args, "teacher_dtype", "float32")


def objective_options(args: argparse.Namespace) -> dict:
    """Keyword arguments of `DistillationObjective` that are options of stage 1.

    Args:
        args: of stage 1, as its `config.yaml` has them.

    Raises:
        ConfigError: a key or value of `loss_conf` or `objective_conf` that means
            nothing.
    """
    if args.target_type == "codes":
        loss = CodebookLoss()
    else:
        check_keys("loss_conf", args.loss_conf, ("l1", "mse", "cosine", "codes"))
        loss = EmbeddingLoss(**args.loss_conf)
    return dict(
        loss=loss,
        align=args.align,
        target_delay=args.target_delay,
        options=read_options(args.objective_conf),
    )


def explain_data(args: argparse.Namespace, mode: str) -> None:
    """Look for the reason why ESPnet could not read the data.

    Args:
        args: ESPnet's arguments.
        mode: `train` or another, which is the validation set's.

    Raises:
        DataError: see `read_wav_scp`, `read_lines` and `read_samples`.
    """
    part = "train" if mode == "train" else "valid"
    sources = getattr(args, f"{part}_data_path_and_name_and_type")
    scps = [path for path, _, kind in sources if kind == "sound"]
    texts = [path for path, _, kind in sources if kind == "text"]
    shapes = list(getattr(args, f"{part}_shape_file"))
    if part == "train":  # stage 2 has no such options
        scps += getattr(args, "unlabelled_wav_scp", [])
        shapes += getattr(args, "unlabelled_shape_file", [])
    for path in (x for x in map(Path, scps) if not x.is_dir()):
        read_wav_scp(path)
    for path in (x for x in map(Path, texts) if not x.is_dir()):
        read_lines(path, "a Kaldi text")
    for path in (x for x in map(Path, shapes) if not x.is_dir()):
        read_samples(path)


def read_student_config(args: argparse.Namespace) -> None:
    """Take frontend and encoder from the stage-2 config, so they are typed once.

    Args:
        args: ESPnet's arguments; `frontend`, `frontend_conf`, `encoder` and
            `encoder_conf` are replaced by what `args.student_config` says.

    Raises:
        ConfigError: the file is missing or names an encoder that this task has not.
    """
    path = Path(args.student_config)
    args.student_config = None  # the saved config.yaml stands on its own
    take_student(args, read_yaml(path), path)


def take_student(args: argparse.Namespace, config: dict, where: Path) -> None:
    """Replace frontend and encoder in `args` by what a config of stage 2 says.

    Args:
        args: ESPnet's arguments.
        config: of stage 2; a class that it does not name is ESPnet's default.
        where: it was read, for messages.

    Raises:
        ConfigError: an encoder that this task has not, or a section of another form.
    """
    for choices in (frontend_choices, encoder_choices):
        name = config.get(choices.name, choices.default)
        if not isinstance(name, str) or name not in choices.classes:
            raise ConfigError(
                f"{where}: {choices.name}: expected one of {sorted(choices.classes)}, "
                f"found {shown(name)}"
            )
        conf = config.get(f"{choices.name}_conf")
        if conf is not None and not isinstance(conf, dict):
            raise ConfigError(
                f"{where}: {choices.name}_conf: expected a mapping, found {shown(conf)}"
            )
        setattr(args, choices.name, name)
        setattr(args, f"{choices.name}_conf", conf or {})


def check_config(args: argparse.Namespace) -> None:
    """Refuse settings that would train to the end and be silently wrong.

    Args:
        args: ESPnet's arguments.

    Raises:
        ConfigError: time warping is on, the sampling rate is not 16 kHz, or options
            that do not go together.
    """
    if args.specaug is not None and args.specaug_conf.get("apply_time_warp", True):
        raise ConfigError(
            "specaug_conf.apply_time_warp: expected false, found true (ESPnet's "
            "default): warping moves the student's frames away from the teachers'"
        )
    fs = str(args.frontend_conf.get("fs", 16000)).lower()
    if fs not in ("16000", "16k"):
        raise ConfigError(f"frontend_conf.fs: the teachers expect 16000, found {fs}")
    objective = objective_options(args)
    asked = None
    if args.target_type == "codes":
        asked = "target_type codes"
    elif objective["loss"].codes > 0:
        asked = f"loss_conf.codes {objective['loss'].codes:g}"
    if asked and args.targets_dir is None:
        raise ConfigError(
            f"{asked}: expected --targets_dir with stored codes "
            "(run mtkd_extract --form codes): live teachers give embeddings"
        )
    if args.targets_dir is not None and teacher_dtype(args) != "float32":
        raise ConfigError(
            f"--teacher_dtype: expected float32 beside --targets_dir, found "
            f"{args.teacher_dtype}: no teacher runs in this training: leave it out, or "
            "extract with mtkd_extract --dtype (mtkd.sh: --extract_args)"
        )
    if asked and args.align != "concat":
        raise ConfigError(
            f"{asked}: codes cannot be averaged: expected align concat, "
            f"found {args.align}"
        )
    if asked and objective["options"].layers != "each":
        raise ConfigError(
            f"{asked}: codes cannot be averaged: expected objective_conf.layers each, "
            f"found {objective['options'].layers}"
        )
    if len(args.unlabelled_wav_scp) != len(args.unlabelled_shape_file):
        raise ConfigError(
            "--unlabelled_wav_scp, --unlabelled_shape_file: expected as many of one as "
            f"of the other, found {len(args.unlabelled_wav_scp)} and "
            f"{len(args.unlabelled_shape_file)}"
        )
    check_names(
        [
            path
            for part in ("train", "valid")
            for path, *_ in getattr(args, f"{part}_data_path_and_name_and_type")
        ]
        + args.unlabelled_wav_scp
    )
    if args.target_delay < 0:
        raise ConfigError(
            f"--target_delay: expected 0 or more, found {args.target_delay}"
        )
    if not 0 < args.unlabelled_ratio < math.inf:
        expected = "a finite number" if args.unlabelled_ratio > 0 else "above 0"
        raise ConfigError(
            f"--unlabelled_ratio: expected {expected}, found {args.unlabelled_ratio}"
        )
    for name in ("iterator_type", "valid_iterator_type"):
        found = getattr(args, name, None)  # ESPnet3 has none
        if found not in ITERATOR_TYPES:
            raise ConfigError(
                f"{name}: expected sequence or category, found {found}: targets belong "
                "to whole utterances, by whose ids they are found"
            )
    conf = args.encoder_conf
    if conf.get("interctc_layer_idx") and conf.get("interctc_use_conditioning"):
        raise ConfigError(
            "encoder_conf.interctc_use_conditioning: expected false, found true: stage "
            "1 has no CTC whose output the encoder could be conditioned on"
        )
