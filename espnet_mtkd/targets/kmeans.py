"""Codebooks by k-means, each on what those before it leave over.

Residual quantisation (Chen, Guan and Wang, Sensors 2010), with the search's beam in
training too: a codebook sees the residuals of all partial sums that are kept, so that
there are more of them to learn from.
"""

import torch
import torch.nn.functional as F

from espnet_mtkd.targets.beam import Beams, chunk_size

ITERATIONS = 10  # of k-means
FRAMES_PER_ENTRY = 256  # that k-means sees, at most
SPLIT = 1e-3  # by which the halves of a split entry differ from it


def train_entries(
    x_NE: torch.Tensor, num_codebooks: int, num_entries: int, generator: torch.Generator
) -> torch.Tensor:
    """Codebooks of a sample.

    Args:
        x_NE: (N, E) fp32, of zero mean.
        num_codebooks: M.
        num_entries: K.
        generator: of random numbers, on the CPU.

    Returns:
        (M, K, E) fp32, on the device of `x_NE`.
    """
    chunks = [(x, Beams(len(x), x.device)) for x in x_NE.split(chunk_size(x_NE.device))]
    entries_RE = x_NE[:0]
    for _ in range(num_codebooks):
        index_PM = torch.cat([beams.index_NBm.flatten(0, 1) for _, beams in chunks])
        num_beams = len(index_PM) // len(x_NE)
        rows = choose(len(index_PM), FRAMES_PER_ENTRY * num_entries, generator, x_NE)
        residual_PE = x_NE[rows // num_beams]
        if len(entries_RE):
            residual_PE -= F.embedding_bag(index_PM[rows], entries_RE, mode="sum")
        entries_KE = kmeans(residual_PE, num_entries, generator)
        norms_K = entries_KE.square().sum(1)
        table_RK = 2 * entries_RE @ entries_KE.T
        for x_CE, beams in chunks:
            beams.extend(torch.addmm(norms_K, x_CE, entries_KE.T, alpha=-2), table_RK)
        entries_RE = torch.cat([entries_RE, entries_KE])
    return entries_RE.view(num_codebooks, num_entries, -1)


def kmeans(
    x_NE: torch.Tensor, num_entries: int, generator: torch.Generator
) -> torch.Tensor:
    """Lloyd's iterations, from vectors chosen at random.

    Args:
        x_NE: (N, E) fp32, N at least `num_entries`.
        num_entries: K.
        generator: of random numbers, on the CPU.

    Returns:
        (K, E).
    """
    entries_KE = x_NE[choose(len(x_NE), num_entries, generator, x_NE)]
    for _ in range(ITERATIONS):
        norms_K = entries_KE.square().sum(1)
        nearest_N = torch.addmm(norms_K, x_NE, entries_KE.T, alpha=-2).argmin(1)
        counts_K = torch.bincount(nearest_N, minlength=num_entries)
        # Sums in a fixed order, on a GPU too, where index_add_ has none: else the same
        # sample would give other codebooks.
        order_N = nearest_N.argsort(stable=True)
        starts_K = counts_K.cumsum(0) - counts_K
        entries_KE = F.embedding_bag(order_N, x_NE, starts_K, mode="mean")
        _split_largest(entries_KE, counts_K)
    return entries_KE


def _split_largest(entries_KE, counts_K) -> None:
    """Give each entry that nothing is nearest to a half of a large one."""
    (empty,) = (counts_K == 0).nonzero(as_tuple=True)
    largest = counts_K.argsort(descending=True, stable=True)[: len(empty)]
    entries_KE[empty] = entries_KE[largest] * (1 + SPLIT)
    entries_KE[largest] *= 1 - SPLIT


def choose(num_rows: int, num: int, generator, like: torch.Tensor) -> torch.Tensor:
    """Numbers of up to `num` of the rows, at random, on the device of `like`."""
    return torch.randperm(num_rows, generator=generator)[:num].to(like.device)
