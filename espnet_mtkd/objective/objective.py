"""What a student has to predict of its teachers, and how far it is from that."""

from collections.abc import Sequence

import torch
from torch import nn

from espnet_mtkd.objective.align import FrameAligner
from espnet_mtkd.objective.heads import PredictionHead
from espnet_mtkd.objective.losses import CODEBOOK_SIZE, CodebookLoss, EmbeddingLoss
from espnet_mtkd.objective.normalize import Standardizer


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

    Raises:
        ConfigError: see `FrameAligner`.
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
    ):
        super().__init__()
        self.targets = list(targets)
        self.loss = loss
        self.target_delay = target_delay
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
                spec.name: Standardizer(spec.dim)
                for spec in self.targets
                if spec.num_codebooks == 0
            }
        )
        self.heads = nn.ModuleDict(
            {
                spec.name: PredictionHead(
                    student_dim,
                    spec.num_codebooks * CODEBOOK_SIZE or spec.dim,
                    self.aligners[spec.name].num_per_frame,
                )
                for spec in self.targets
            }
        )

    def forward(self, h_BTD, h_lengths, targets: dict, utt_ids=None):
        """Loss of one batch.

        Args:
            h_BTD: encoder output.
            h_lengths: (B,) its valid frames.
            targets: {name: ((B, T, E) or codes (B, T, M), (B,) valid frames)}.
            utt_ids: B strings, for messages.

        Returns:
            Scalar loss, the targets' weighted mean; its statistics, detached; and the
            number of frames that it is a mean of (the targets' mean).

        Raises:
            DataError: teacher and student frames do not belong together.
        """
        loss, stats, num_frames = 0.0, {}, 0
        total_weight = sum(spec.weight for spec in self.targets)
        for spec in self.targets:
            aligner = self.aligners[spec.name]
            target_BTE, lengths = targets[spec.name]
            aligner.check(lengths, h_lengths, spec.name, utt_ids)
            if spec.num_codebooks == 0:
                target_BTE = self.standardizers[spec.name](target_BTE)
            target_BTRE, lengths = aligner(target_BTE, lengths, h_BTD.size(1))
            delay = self.target_delay
            lengths = torch.minimum(lengths, h_lengths - delay).clamp(min=0)
            predicted_BTRE = self.heads[spec.name](h_BTD[:, delay:])
            target_BTRE = target_BTRE[:, : predicted_BTRE.size(1)]
            part, parts = self.loss(predicted_BTRE, target_BTRE, lengths)
            loss = loss + spec.weight / total_weight * part
            num_frames = num_frames + lengths.clamp(max=predicted_BTRE.size(1)).sum()
            stats[f"loss_{spec.name}"] = part.detach()
            statistic = self.loss.statistic
            stats[f"{statistic}_{spec.name}"] = parts[statistic]
        return loss, stats, num_frames / len(self.targets)

    @property
    def is_standardized(self) -> bool:
        """Whether the statistics of all targets are set."""
        return all(s.is_fitted for s in self.standardizers.values())

    @torch.no_grad()
    def observe(self, targets: dict) -> None:
        """Add a batch to the sample from which the targets' statistics are taken.

        Args:
            targets: as for `forward`.
        """
        for name, standardizer in self.standardizers.items():
            standardizer.observe(*targets[name])
