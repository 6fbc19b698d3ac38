"""Standardisation of teacher embeddings."""

import torch
from torch import nn

MIN_STD = 1e-4


class Standardizer(nn.Module):
    """Zero mean and unit variance in each dimension, from a sample of the data.

    Teachers differ by orders of magnitude in scale, and within a teacher a few
    dimensions carry most of the energy; without this, they alone would be learnt.
    The statistics are buffers, so they travel with checkpoints and through DDP.

    Args:
        dim: embedding dimension E.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("num_frames", torch.zeros((), dtype=torch.long))
        self._sums = None

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called, here or before the checkpoint was written."""
        return bool(self.num_frames > 0)

    @torch.no_grad()
    def observe(self, target_BTE, lengths_B) -> None:
        """Add the valid frames of a batch (B, T, E), (B,) to the sample."""
        T = target_BTE.size(1)
        valid = torch.arange(T, device=target_BTE.device) < lengths_B[:, None]
        x = target_BTE[valid].double()  # (frames, E)
        new = (len(x), x.sum(0), x.square().sum(0))
        old = self._sums
        if old is not None:
            new = tuple(a + b for a, b in zip(old, new, strict=True))
        self._sums = new

    @torch.no_grad()
    def fit(self) -> None:
        """Set the statistics from the sample, over all processes where there are more.

        Raises:
            ValueError: fewer than two frames were observed.
        """
        device, dim = self.mean.device, len(self.mean)
        sums = torch.zeros(1 + 2 * dim, dtype=torch.double, device=device)
        if self._sums is not None:
            num_frames, total, squares = self._sums
            sums = torch.cat([total.new_tensor([num_frames]), total, squares])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        n, total, squares = int(sums[0]), sums[1 : 1 + dim], sums[1 + dim :]
        if n < 2:
            raise ValueError(f"expected a sample of at least 2 frames, found {n}")
        mean = total / n
        variance = (squares / n - mean.square()).clamp(min=0)
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().clamp(min=MIN_STD))
        self.num_frames.fill_(n)
        self._sums = None

    def forward(self, target_BTE):
        """(B, T, E) teacher embeddings -> the same, standardised, in fp32."""
        return (target_BTE.float() - self.mean) / self.std
