"""Standardisation of teacher embeddings."""

import torch
from torch import nn

MIN_STD = 1e-4
MAX_FRAMES = 8_192  # of the sample, all processes together
MIN_FRAMES = 1_000  # 20 s; fewer do not show which of them are outliers
OUTLIER_DISTANCE = 3.0  # of a frame from the median, in medians of all distances


class Standardizer(nn.Module):
    """Zero mean and unit variance in each dimension, from frames that are no outliers.

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

    Attributes:
        mean, std: (E,), of the frames that are no outliers.
        num_frames: frames of the sample, outliers included.
        num_outliers: of them that were left out.
        outlier_energy: their share of the squared energy, by plain mean and deviation.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("num_frames", torch.zeros((), dtype=torch.long))
        self.num_outliers, self.outlier_energy = 0, 0.0
        self._sample, self._num_seen, self._stride = [], 0, 1

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called, here or before the checkpoint was written."""
        return bool(self.num_frames > 0)

    @torch.no_grad()
    def observe(self, target_BTE, lengths_B) -> None:
        """Add the valid frames of a batch (B, T, E), (B,) to the sample.

        Of more than `MAX_FRAMES` every second one is kept, of twice as many every
        fourth, and so on.
        """
        T = target_BTE.size(1)
        valid = torch.arange(T, device=target_BTE.device) < lengths_B[:, None]
        x = target_BTE[valid].float()  # (frames, E)
        begin = -self._num_seen % self._stride
        self._num_seen += len(x)
        self._sample.append(x[begin :: self._stride].cpu())
        while sum(map(len, self._sample)) > MAX_FRAMES // _num_processes():
            self._sample = [torch.cat(self._sample)[::2]]
            self._stride *= 2

    @torch.no_grad()
    def fit(self) -> None:
        """Set the statistics from the sample, over all processes where there are more.

        Raises:
            ValueError: fewer than two frames were observed.
        """
        parts = [*self._sample, self.mean.new_zeros(0, len(self.mean)).cpu()]
        x = _of_all_processes(torch.cat(parts))
        if len(x) < 2:
            raise ValueError(f"expected a sample of at least 2 frames, found {len(x)}")
        is_outlier = find_outliers(x)
        plain = (x - x.mean(0)) / x.std(0, unbiased=False).clamp(min=MIN_STD)
        energy = plain.square().sum(1)
        self.num_outliers = int(is_outlier.sum())
        self.outlier_energy = float(energy[is_outlier].sum() / energy.sum().clamp(1e-9))
        ordinary = x[~is_outlier].double()
        self.mean.copy_(ordinary.mean(0))
        self.std.copy_(ordinary.std(0, unbiased=False).clamp(min=MIN_STD))
        self.num_frames.fill_(len(x))
        self._sample = []

    def describe_tails(self) -> str:
        """How heavy the tails of the sample are, after `fit`, as a line for the log."""
        share = self.num_outliers / max(1, int(self.num_frames))
        return (
            f"{share:.1%} of the frames are outliers with {self.outlier_energy:.0%} of "
            "the squared energy"
        )

    def forward(self, target_BTE):
        """(B, T, E) teacher embeddings -> the same, standardised, in fp32."""
        return (target_BTE.float() - self.mean) / self.std


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


def _num_processes() -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def _of_all_processes(x_NE):
    if _num_processes() == 1:
        return x_NE
    parts = [None] * _num_processes()
    torch.distributed.all_gather_object(parts, x_NE)
    return torch.cat(parts)
