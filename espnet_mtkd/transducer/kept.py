"""The objective of stage 1, kept as an auxiliary loss while the transducer is trained.

Beside transducer and CTC the encoder goes on predicting what the teachers say, through
the heads and with the statistics that stage 1 ended with; MVQ-KD (arXiv 2211.00508)
trains with stored teachers in this way. Heads are learnt on with stage 2's optimiser.
They are parameters of the model, so that clipping, averaging over processes and moving
between devices know them, but stand in none of its files: `hide_from_state_dict` leaves
them out, and `save_with_optimizer` puts them into checkpoint.pth alone, to resume from.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from espnet_mtkd.data.kaldi import read_lengths, read_wav_scp
from espnet_mtkd.errors import ConfigError, MTKDError
from espnet_mtkd.files import read_yaml
from espnet_mtkd.objective.objective import DistillationObjective
from espnet_mtkd.pretraining.arguments import add_distillation_arguments
from espnet_mtkd.pretraining.datasets import data_set_name
from espnet_mtkd.pretraining.model import objective_on
from espnet_mtkd.pretraining.task import load_teachers, objective_options
from espnet_mtkd.student.compare import differing_fields
from espnet_mtkd.student.grid import FrameGrid
from espnet_mtkd.student.weights import compare_keys, read_pth
from espnet_mtkd.targets.teacher import CachedTeacher
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.transducer.kept_options import OPTION, KeptOptions

NAME = "kept_teachers"  # in the model, and in an optimiser's state
PREFIX = "objective."  # in a checkpoint of stage 1


class KeptTeachers(nn.Module):
    """Teachers, heads and statistics of stage 1, and the weight of their loss.

    Args:
        objective: `DistillationObjective`, as stage 1 left it.
        teachers: as `ESPnetMTKDModel`'s.
        options: of the weight.
        unlabelled: (wav.scp, file of lengths) of audio without text, to be learnt from.

    Attributes:
        progress: share of the training's epochs that has passed, set by the trainer.
        reports_validation: whether the targets of the validation set are there.
    """

    def __init__(
        self,
        objective: DistillationObjective,
        teachers,
        options: KeptOptions,
        unlabelled: Sequence[tuple[str, str]] = (),
    ):
        super().__init__()
        self.objective = objective
        self.teachers = teachers
        self.options = options
        self.unlabelled = list(unlabelled)
        self.progress = 0.0
        self.reports_validation = False
        self._names = {}  # whether it is trained -> name of the data set, for the ids

    @property
    def weight(self) -> float:
        """Of the loss, now."""
        return self.options.weight_at(self.progress)

    @property
    def is_wanted(self) -> bool:
        """Whether the next batch needs the loss: for training, or for the report."""
        return self.weight > 0 if self.training else self.reports_validation

    def forward(self, h, h_lengths, speech, speech_lengths, utt_id, num_samples=None):
        """The kept loss of one batch, see `DistillationObjective`.

        Args:
            h, h_lengths: what the objective takes of the encoder, and its frames.
            speech, speech_lengths: what it heard, (B, N) and (B,) samples.
            utt_id: B strings, of `name_ids` for labelled audio.
            num_samples: `speech_lengths` on the host, where they are known there.

        Returns:
            Scalar loss, without the weight; statistics; the number of frames.

        Raises:
            TargetStoreError, DataError: see `CachedTeacher` and
                `DistillationObjective`.
        """
        num_samples = torch.tensor(num_samples or speech_lengths.tolist())
        speech = speech[:, : max(num_samples.tolist())]
        targets = self.teachers(speech, num_samples, utt_id)
        return self.objective(h, h_lengths, targets, utt_id)

    def name_ids(self, utt_ids: list[str]) -> list[str]:
        """Ids of the training (or validation) set as the teachers know them."""
        name = self._names.get(self.training)
        return utt_ids if name is None else [f"{name}/{utt}" for utt in utt_ids]

    def nothing(self) -> torch.Tensor:
        """0, with a gradient of 0 for each parameter: DDP waits for all of them."""
        return sum(p.sum() for p in self.parameters()) * 0.0

    def check_training(self, name: str, lengths: dict[str, int]) -> None:
        """Refuse training data whose targets are not all there, before they are read.

        Args:
            name: of the labelled data set.
            lengths: utterance -> samples.

        Raises:
            TargetStoreError, DataError: see the teachers' `check_lengths`.
        """
        self._names[True] = self._check(name, lengths)
        for scp, shape in self.unlabelled:
            self.teachers.check_lengths(data_set_name(scp), read_lengths(Path(shape)))

    def check_validation(self, name: str, lengths: dict[str, int]) -> None:
        """Report the loss of the validation set where its targets are all there."""
        try:
            self._names[False] = self._check(name, lengths)
        except MTKDError as e:
            logging.info("kept teachers: not reported for validation: %s", e)
        else:
            self.reports_validation = True

    def _check(self, name: str, lengths: dict[str, int]) -> str | None:
        """What stands before the ids: nothing for sets that stage 1 did not have."""
        teachers = getattr(self.teachers, "teachers", [])
        stored = [t for t in teachers if isinstance(t, CachedTeacher)]
        known = name if all(name in t.data_sets for t in stored) else None
        self.teachers.check_lengths(known, lengths)
        return known


def build_kept_teachers(
    checkpoint: Path, args: argparse.Namespace, model, options: KeptOptions
) -> KeptTeachers:
    """Build stage 1's objective for the model of stage 2.

    Args:
        checkpoint: `.pth` of stage 1, with its `config.yaml` beside it.
        args: ESPnet's, of stage 2.
        model: of stage 2, built.
        options: of the kept loss.

    Raises:
        ConfigError: no stage 1 there; another front end, normaliser or encoder than
            stage 1's; heads that do not fit; or values that are not finite.
        TargetStoreError: see `CachedTeacher`.
    """
    stage1 = read_stage1(checkpoint, options)
    problems = differing_fields(vars(stage1), vars(args))
    problems += [
        f"{name}: expected none, as in stage 1, found {type(part).__name__}"
        for name in ("preencoder", "postencoder")
        if (part := getattr(model, name)) is not None
    ]
    if model.specaug is not None and getattr(model.specaug, "apply_time_warp", False):
        problems.append(
            "specaug_conf.apply_time_warp: expected false, found true: warping moves "
            "the student's frames away from the teachers'"
        )
    if problems:
        raise ConfigError(
            f"--keep_teachers: the heads of {checkpoint} are of another student:\n  "
            + "\n  ".join(problems)
            + "\nGive stage 2 what is expected here, or train stage 1 with its settings"
        )
    state = {
        k.removeprefix(PREFIX): v
        for k, v in read_pth(checkpoint).items()
        if k.startswith(PREFIX)
    }
    teachers = load_teachers(stage1, parse_teachers(stage1.teachers))
    grid = FrameGrid.of(model.frontend, model.encoder)
    objective = objective_on(
        model.encoder, grid, teachers.targets, **objective_options(stage1)
    )
    problems = compare_keys(state, objective.state_dict())
    if problems:
        raise ConfigError(
            f"{checkpoint}: expected heads and statistics of the targets "
            f"{', '.join(spec.name for spec in teachers.targets)}, found:\n  "
            + "\n  ".join(problems)
            + "\nName a checkpoint that was trained on these targets"
        )
    objective.load_state_dict(state)
    if not objective.is_standardized:
        raise ConfigError(
            f"{checkpoint}: its targets were never standardised: train stage 1 anew"
        )
    return KeptTeachers(objective, teachers, options, unlabelled_sets(stage1, options))


def read_stage1(checkpoint: Path, options: KeptOptions) -> argparse.Namespace:
    """Arguments of the stage 1 that a checkpoint is of.

    Raises:
        ConfigError: no config beside it, or that of another training.
    """
    path = checkpoint.parent / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"--keep_teachers_from: no such file: {path}: name a checkpoint in the "
            "directory of stage 1, such as exp/mtkd_x/valid.loss.best.pth"
        )
    config = read_yaml(path)
    if not config.get("teachers"):
        raise ConfigError(
            f"{path}: expected a training of stage 1, found no 'teachers' in it"
        )
    parser = argparse.ArgumentParser()
    add_distillation_arguments(parser)
    args = argparse.Namespace(**{**vars(parser.parse_args([])), **config})
    if options.targets_dir is not None:
        args.targets_dir = options.targets_dir
    if options.unlabelled > 0 and not args.unlabelled_wav_scp:
        raise ConfigError(
            f"{OPTION}.unlabelled: expected 0, for {path} had no audio without text "
            f"(unlabelled_wav_scp), found {options.unlabelled}"
        )
    return args


def unlabelled_sets(
    stage1: argparse.Namespace, options: KeptOptions
) -> list[tuple[str, str]]:
    """(wav.scp, file of lengths) of stage 1's audio without text, if it is asked for.

    Raises:
        DataError: one of them cannot be read.
    """
    if options.unlabelled == 0:
        return []
    pairs = list(
        zip(stage1.unlabelled_wav_scp, stage1.unlabelled_shape_file, strict=True)
    )
    for scp, shape in pairs:
        read_wav_scp(Path(scp))
        read_lengths(Path(shape))
    return pairs


def mean_over_processes(loss, num_frames, batch_size: int):
    """The share of a mean over all processes' frames, as ESPnet adds the shares up.

    ESPnet weighs the processes' losses by their utterances; a mean over frames is
    weighed by frames.

    Args:
        loss: mean over this process's frames.
        num_frames: of this process.
        batch_size: its utterances.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return loss
    mine = torch.stack([num_frames.to(loss), loss.new_tensor(float(batch_size))])
    total = mine.clone()
    distributed.all_reduce(total)
    frames_share, utts_share = mine / total.clamp(min=1)
    return loss * frames_share / utts_share


def hide_from_state_dict(model: nn.Module) -> None:
    """Leave the kept teachers out of a model's files, and do not miss them there."""
    prefix = f"{NAME}."

    def leave_out(module, state, before, local_metadata):
        for key in [k for k in state if k.startswith(before + prefix)]:
            del state[key]
        metadata = getattr(state, "_metadata", {})
        for key in [k for k in metadata if f"{k}.".startswith(before + prefix)]:
            del metadata[key]

    def do_not_miss(module, incompatible):
        missing = incompatible.missing_keys
        missing[:] = [k for k in missing if not k.startswith(prefix)]

    model.register_state_dict_post_hook(leave_out)
    model.register_load_state_dict_post_hook(do_not_miss)


def save_with_optimizer(optimizer, kept: KeptTeachers | None) -> None:
    """Save and restore heads and statistics with the optimiser's state.

    Args:
        optimizer: of stage 2.
        kept: None: nothing is kept, and a checkpoint that has something is refused.
    """

    def put(optimizer, state):
        if kept is not None:
            state[NAME] = kept.objective.state_dict()

    def take(optimizer, state):
        found = state.pop(NAME, None)
        if (found is None) != (kept is None):
            expected, written = ("with", "without") if kept else ("without", "with")
            raise ConfigError(
                f"checkpoint.pth was written {written} kept teachers, and this "
                f"training is {expected} them: give the options that it began with, or "
                "another --output_dir (mtkd.sh: --asr_tag)"
            )
        if kept is not None:
            kept.objective.load_state_dict(found)

    optimizer.register_state_dict_post_hook(put)
    optimizer.register_load_state_dict_pre_hook(take)
