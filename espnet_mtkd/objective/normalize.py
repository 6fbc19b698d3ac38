"""Standardisation of teacher embeddings."""

import torch
import torch.nn.functional as F
from torch import nn

from espnet_mtkd.errors import NonFiniteError
from espnet_mtkd.objective.sample import FrameSample

MIN_STD = 1e-4
MIN_FRAMES = 1_000  # 20 s; fewer do not show which of them are outliers
OUTLIER_DISTANCE = 3.0  # of a frame from the median, in medians of all distances


class Standardizer(nn.Module):
    """Zero mean and unit variance in each dimension.

    Teachers differ by orders of magnitude in scale, and within a teacher a few
    dimensions carry most of the energy; without this, they alone would be learnt.

    Transformers also keep a few frames for themselves, with norms many times those of
    the others (Darcet et al., arXiv 2309.16588): of Whisper base, 2 % of the frames
    hold half of the squared energy. A frame is left out of mean and deviation where its
    distance from the dimensions' medians, in units of their mean absolute deviations,
    exceeds `OUTLIER_DISTANCE` times the median distance; it is standardised like every
    other.

    The statistics are buffers, so they travel with checkpoints and through DDP.

    Args:
        dim: embedding dimension E.
        robust: leave outliers out of the statistics; otherwise these are those of all
            frames.
        clip: standardised values are cut to [-clip, clip]; 0 cuts none.

    Attributes:
        mean, std: (E,), of the frames that count.
        num_frames: frames of the sample, outliers included.
        num_outliers: of them that stand far out.
        outlier_energy: their share of the squared energy, by plain mean and deviation.
    """

    def __init__(self, dim: int, robust: bool = True, clip: float = 0.0):
        super().__init__()
        self.robust, self.clip = robust, clip
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("num_frames", torch.zeros((), dtype=torch.long))
        self.num_outliers, self.outlier_energy = 0, 0.0
        self._sample = FrameSample()

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called, here or before the checkpoint was written."""
        return bool(self.num_frames > 0)

    @property
    def scale(self) -> float:
        """Root mean square of the dimensions' deviations, after `fit`."""
        return self.std.square().mean().sqrt().item()

    def observe(self, target_BTE, lengths_B) -> None:
        """Add the valid frames of a batch (B, T, E), (B,) to the sample."""
        self._sample.add(target_BTE, lengths_B)

    @torch.no_grad()
    def fit(self, name: str = "") -> None:
        """Set the statistics from the sample, over all processes where there are more.

        Args:
            name: of the target, for messages.

        Raises:
            ValueError: fewer than two frames were observed.
            NonFiniteError: there is NaN or infinity among their values.
        """
        x = self._sample.take(len(self.mean))
        if len(x) < 2:
            raise ValueError(f"expected a sample of at least 2 frames, found {len(x)}")
        if not bool(x.isfinite().all()):
            raise NonFiniteError(
                f"target '{name}' holds values that are not finite (in a sample of "
                f"{len(x)} frames): expected finite embeddings from the teacher"
            )
        is_outlier = find_outliers(x)
        plain = (x - x.mean(0)) / x.std(0, unbiased=False).clamp(min=MIN_STD)
        energy = plain.square().sum(1)
        self.num_outliers = int(is_outlier.sum())
        self.outlier_energy = float(energy[is_outlier].sum() / energy.sum().clamp(1e-9))
        self._set((x[~is_outlier] if self.robust else x).double(), name)
        self.num_frames.fill_(len(x))

    def _set(self, x_NE, name: str) -> None:
        """Take the statistics of these frames, in fp64."""
        self.mean.copy_(x_NE.mean(0))
        self.std.copy_(x_NE.std(0, unbiased=False).clamp(min=MIN_STD))

    def describe_tails(self) -> str:
        """How heavy the tails of the sample are, after `fit`, as a line for the log."""
        share = self.num_outliers / max(1, int(self.num_frames))
        return (
            f"{share:.1%} of the frames are outliers with {self.outlier_energy:.0%} of "
            "the squared energy"
        )

    def describe(self) -> str:
        """What was found, after `fit`, as a line for the log."""
        frames = f"standardised over {int(self.num_frames)} frames"
        return f"{frames}; its scale is {self.scale:.3g}; {self.describe_tails()}"

    def forward(self, target_BTE):
        """(B, T, E) teacher embeddings -> the same, standardised, in fp32."""
        return clip((target_BTE.float() - self.mean) / self.std, self.clip)


class FrameNorm(nn.Module):
    """Targets that need no statistics: normalised by themselves, or as they are.

    Layer norm without gain or bias is what data2vec (arXiv 2202.03555) does to its
    targets: each frame gets mean 0 and variance 1 over its dimensions.

    Args:
        normalize: each frame over its own dimensions; otherwise nothing is done.
        clip: values are cut to [-clip, clip]; 0 cuts none.
    """

    is_fitted = True

    def __init__(self, normalize: bool, clip: float = 0.0):
        super().__init__()
        self.normalize, self.clip = normalize, clip

    def observe(self, target_BTE, lengths_B) -> None:
        """Nothing to do."""

    def fit(self, name: str = "") -> None:
        """Nothing to do."""

    def describe(self) -> str:
        """As a line for the log."""
        return "each frame is normalised" if self.normalize else "not standardised"

    def forward(self, target_BTE):
        """(B, T, E) teacher embeddings -> the same, normalised or not, in fp32."""
        target_BTE = target_BTE.float()
        if self.normalize:
            target_BTE = F.layer_norm(target_BTE, target_BTE.shape[-1:])
        return clip(target_BTE, self.clip)


def clip(x, most: float):
    """`x` cut to [-most, most]; 0 cuts nothing."""
    return x.clamp(-most, most) if most > 0 else x


def find_outliers(x_NE):
    """Which frames stand far out of the others.

    Args:
        x_NE: (N, E) frames of a target.

    Returns:
        (N,) bool; at most half of the frames, and none of fewer than `MIN_FRAMES`.
    """
    if len(x_NE) < MIN_FRAMES:
        return torch.zeros(len(x_NE), dtype=torch.bool, device=x_NE.device)
    difference = x_NE - x_NE.T.contiguous().median(1).values
    scale = difference.abs().mean(0).clamp(min=MIN_STD)
    distance = (difference / scale).norm(dim=1)
    return distance > OUTLIER_DISTANCE * distance.median()
