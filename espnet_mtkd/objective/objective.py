"""What a student has to predict of its teachers, and how far it is from that."""

from collections.abc import Sequence

import torch
from torch import nn

from espnet_mtkd.objective.align import FrameAligner
from espnet_mtkd.objective.balance import BALANCE_CLASSES
from espnet_mtkd.objective.goals import Goal, find_goals
from espnet_mtkd.objective.heads import (
    BlockNorms,
    LadderHead,
    MLPHead,
    PredictionHead,
)
from espnet_mtkd.objective.layers import LayerMean
from espnet_mtkd.objective.losses import CODEBOOK_SIZE, CodebookLoss, EmbeddingLoss
from espnet_mtkd.objective.normalize import FrameNorm, Standardizer
from espnet_mtkd.objective.options import ObjectiveOptions
from espnet_mtkd.objective.rotation import RotatingStandardizer

DEFAULTS = ObjectiveOptions()


class DistillationObjective(nn.Module):
    """A standardised target, a prediction head and a distance for each embedding.

    Both stages learn from teachers through it; its parameters and buffers are no part
    of the student.

    Args:
        targets: list of `TargetSpec`, what the teachers give.
        student_dim: D, the encoder's output dimension.
        frame_shift: samples between the encoder's frames.
        frame_centre: sample in the middle of what the encoder's frame 0 hears.
        loss: distance between prediction and standardised target, or `CodebookLoss`
            where the targets are codes.
        align: method of `FrameAligner`.
        target_delay: student frames; frame t + delay predicts what the teachers say of
            frame t, so a streaming student may have heard that much more of the future.
        options: how targets are scaled, predicted and weighed.
        num_blocks: of the student; needed where heads sit on blocks.

    Attributes:
        blocks: numbers from 1 of the blocks whose outputs `forward` takes, ascending;
            None: the encoder's output alone.
        goals: what is predicted.

    Raises:
        ConfigError: see `FrameAligner`, `find_goals`, `ObjectiveOptions.block_numbers`.
    """

    def __init__(
        self,
        targets: Sequence,
        student_dim: int,
        frame_shift: int,
        frame_centre: float,
        loss: EmbeddingLoss | CodebookLoss,
        align: str = "concat",
        target_delay: int = 0,
        options: ObjectiveOptions = DEFAULTS,
        num_blocks: int | None = None,
    ):
        super().__init__()
        self.targets = list(targets)
        self.loss = loss
        self.code_loss = CodebookLoss()
        self.code_weight = loss.codes
        self.target_delay = target_delay
        self.goals = find_goals(self.targets, options.layers, self.code_weight > 0)
        self.blocks = options.block_numbers(num_blocks)
        self.aligners = {
            spec.name: FrameAligner(
                spec.frame_shift,
                frame_shift,
                align,
                spec.frame_centre,
                frame_centre,
            )
            for spec in self.targets
        }
        self.standardizers = nn.ModuleDict(
            {
                spec.name: build_standardizer(spec.dim, options)
                for spec in self.targets
                if spec.num_codebooks == 0
            }
        )
        self.means = nn.ModuleDict(
            {
                goal.name: LayerMean(
                    len(goal.specs), goal.specs[0].dim, options.layers == "mixed"
                )
                for goal in self.goals
                if len(goal.specs) > 1
            }
        )
        if self.blocks is not None:
            self.norms = BlockNorms(self.blocks, num_blocks, student_dim)
        self.heads = nn.ModuleDict(
            {
                name: self._build_head(spec, student_dim, options)
                for goal in self.goals
                for name, spec in head_names(goal)
            }
        )
        self.balance = BALANCE_CLASSES[options.balance](
            [goal.weight for goal in self.goals], [goal.teacher for goal in self.goals]
        )

    def _build_head(self, spec, student_dim: int, options: ObjectiveOptions):
        """The head, or a list of them, that predicts a target."""
        dim = spec.num_codebooks * CODEBOOK_SIZE or spec.dim
        num_per_frame = self.aligners[spec.name].num_per_frame

        def build():
            if options.head == "mlp":
                return MLPHead(student_dim, dim, num_per_frame, options.hidden)
            return PredictionHead(student_dim, dim, num_per_frame)

        if options.blocks == "last":
            return build()
        if options.blocks == "ladder":
            return LadderHead(len(self.blocks), student_dim, build())
        return nn.ModuleList(build() for _ in self.blocks)

    def forward(self, h, h_lengths, targets: dict, utt_ids=None, num_frames=None):
        """Loss of one batch, in fp32 also under autocast.

        Half precision is for the encoder: heads are a small part of a step, and what
        they predict, and its distance summed over frames, would be rounded.

        Args:
            h: encoder output (B, T, D); where `blocks` names some, a list of their
                outputs, of which the last block's is the encoder's.
            h_lengths: (B,) its valid frames.
            targets: {name: ((B, T, E) or codes (B, T, M), (B,) valid frames)}, these
                on the host, so that nobody waits for a GPU.
            utt_ids: B strings, for messages.
            num_frames: B frames of the student, known on the host, to compare numbers
                of frames by; None: those of `h_lengths`.

        Returns:
            Scalar loss, balanced; statistics, detached: of each goal its loss and its
            similarity (`loss_<goal>`, `cosine_<goal>`); and the number of frames that
            it is a mean of (the goals' mean).

        Raises:
            DataError: teacher and student frames do not belong together.
        """
        hs = [h] if isinstance(h, torch.Tensor) else list(h)
        with torch.autocast(hs[0].device.type, enabled=False):
            hs = [h_BTD.float() for h_BTD in hs]
            return self._forward(hs, h_lengths, targets, utt_ids, num_frames)

    def _forward(self, hs: list, h_lengths, targets: dict, utt_ids, num_frames):
        """See `forward`; a list of outputs, in fp32."""
        # What lies behind an utterance may be anything, NaN included, and would reach
        # the heads' gradients through a product with 0.
        index_T = torch.arange(hs[0].size(1), device=h_lengths.device)
        is_padding_BT1 = (index_T >= h_lengths[:, None])[..., None]
        hs = [h_BTD.masked_fill(is_padding_BT1, 0.0) for h_BTD in hs]
        if self.blocks is not None:
            hs = self.norms(hs)
        if num_frames is None:
            num_frames = h_lengths.tolist()
        counts = {name: lengths.tolist() for name, (_, lengths) in targets.items()}
        targets = on_one_device(targets)
        sums, frames, stats = [], [], {}
        for goal in self.goals:
            target_BTE, lengths = self._target(goal, targets)
            name = goal.specs[0].name
            self.aligners[name].check(counts[name], num_frames, goal.name, utt_ids)
            loss = self.code_loss if goal.is_codes else self.loss
            loss_B, lengths_B, parts = self._compare(
                loss, goal.name, name, hs, target_BTE, lengths, h_lengths
            )
            if goal.codes is not None:
                codes_B, _, more = self._compare(
                    self.code_loss,
                    goal.codes.name,
                    goal.codes.name,
                    hs,
                    *targets[goal.codes.name],
                    h_lengths,
                )
                loss_B = loss_B + self.code_weight * codes_B
                parts.update(more)
            sums.append(loss_B)
            frames.append(lengths_B)
            total = lengths_B.sum().clamp(min=1)
            stats[f"loss_{goal.name}"] = loss_B.detach().sum() / total
            for part, sum_B in parts.items():
                stats[part] = sum_B.sum() / total
            if goal.name in self.means:
                shares = self.means[goal.name].shares.detach()
                for spec, share in zip(goal.specs, shares, strict=True):
                    stats[f"share_{spec.name}"] = share
        frames_KB = torch.stack(frames)
        loss, factors = self.balance(torch.stack(sums), frames_KB.to(sums[0].dtype))
        if self.training and self.balance.statistic is not None:
            for goal, factor in zip(self.goals, factors, strict=True):
                stats[f"{self.balance.statistic}_{goal.name}"] = factor
        return loss, stats, frames_KB.sum() / len(self.goals)

    def _target(self, goal: Goal, targets: dict):
        """(B, T, E) standardised target, or codes, and (B,) valid teacher frames."""
        if goal.is_codes:
            return targets[goal.name]
        parts = [self.standardizers[s.name](targets[s.name][0]) for s in goal.specs]
        lengths = targets[goal.specs[0].name][1]
        if len(parts) == 1:
            return parts[0], lengths
        return self.means[goal.name](parts, lengths), lengths

    def _compare(self, loss, name, aligned_as, hs, target_BTE, lengths, h_lengths):
        """Losses of the heads of that name, averaged over them.

        Returns:
            (B,) losses summed over frames, (B,) their numbers, and {name of a
            statistic: (B,) its sums}.
        """
        delay = self.target_delay
        T = hs[0].size(1)
        target_BTRE, lengths = self.aligners[aligned_as](target_BTE, lengths, T)
        target_BTRE = target_BTRE[:, : max(0, T - delay)]
        lengths_B = torch.minimum(lengths, h_lengths - delay)
        lengths_B = lengths_B.clamp(min=0, max=target_BTRE.size(1))
        predictions = self._predict(name, [h_BTD[:, delay:] for h_BTD in hs])
        results = [loss(p, target_BTRE, lengths_B) for p in predictions]
        loss_B = sum(loss_B for loss_B, _ in results) / len(results)
        values = [parts[loss.statistic] for _, parts in results]
        statistic = f"{loss.statistic}_{name}"
        shown = {statistic: sum(values) / len(values)}
        if len(values) > 1:
            for number, value_B in zip(self.blocks, values, strict=True):
                shown[f"{statistic}_block{number}"] = value_B
        return loss_B, lengths_B, shown

    def _predict(self, name: str, hs: list) -> list:
        """(B, T, R, E) by each head of that name."""
        head = self.heads[name]
        if isinstance(head, nn.ModuleList):
            return [one(h_BTD) for one, h_BTD in zip(head, hs, strict=True)]
        return [head(hs if isinstance(head, LadderHead) else hs[0])]

    def weighted_mean(self, stats: dict):
        """The goals' losses by their configured weights, whatever the balance.

        Args:
            stats: of `forward`.

        Returns:
            Scalar, which epochs and trainings are compared by.
        """
        total = sum(goal.weight for goal in self.goals)
        losses = [goal.weight * stats[f"loss_{goal.name}"] for goal in self.goals]
        return sum(losses) / total

    @property
    def is_standardized(self) -> bool:
        """Whether the statistics of all targets are set."""
        parts = [*self.standardizers.values(), *self.means.values()]
        return all(part.is_fitted for part in parts)

    @torch.no_grad()
    def observe(self, targets: dict) -> None:
        """Add a batch to the sample from which the targets' statistics are taken.

        Args:
            targets: as for `forward`.
        """
        targets = on_one_device(targets)
        for name, standardizer in self.standardizers.items():
            standardizer.observe(*targets[name])
        for goal in self.goals:
            if goal.name in self.means:
                parts = [targets[spec.name][0] for spec in goal.specs]
                lengths = targets[goal.specs[0].name][1]
                self.means[goal.name].observe(parts, lengths)

    def fit(self) -> dict[str, str]:
        """Set the targets' statistics from the sample, over all processes.

        Returns:
            Target -> a line for the log.

        Raises:
            NonFiniteError, ConfigError: see `Standardizer`, `RotatingStandardizer`.
        """
        for name, standardizer in self.standardizers.items():
            standardizer.fit(name)
        for goal in self.goals:
            if goal.name in self.means:
                parts = [self.standardizers[spec.name] for spec in goal.specs]
                self.means[goal.name].fit(parts)
        return {name: s.describe() for name, s in self.standardizers.items()}


def on_one_device(targets: dict) -> dict:
    """Targets with their numbers of frames where the targets are."""
    return {
        name: (target, lengths.to(target.device, non_blocking=True))
        for name, (target, lengths) in targets.items()
    }


def build_standardizer(dim: int, options: ObjectiveOptions) -> nn.Module:
    """What scales a target of E = `dim` dimensions."""
    if options.standardize == "phi-s":
        return RotatingStandardizer(dim, options.clip)
    if options.standardize in ("layernorm", "none"):
        return FrameNorm(options.standardize == "layernorm", options.clip)
    return Standardizer(dim, options.standardize == "robust", options.clip)


def head_names(goal: Goal) -> list[tuple]:
    """Names of the heads of a goal, and the target that each predicts."""
    heads = [(goal.name, goal.specs[0])]
    if goal.codes is not None:
        heads.append((goal.codes.name, goal.codes))
    return heads
