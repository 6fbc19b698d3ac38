"""The best alignment of labels to frames through a transducer's lattice.

Node (t, u) of the lattice: t frames are done with and u labels emitted. From there a
blank leads to (t + 1, u), the next label to (t, u + 1). An alignment of U labels to T
frames visits T + U nodes; its last step is the blank at (T - 1, U). A. Graves, 2012
(arXiv 1211.3711), section 2.3.
"""

import torch


def best_path(blank_TU: torch.Tensor, label_TU: torch.Tensor):
    """The likeliest alignment (Viterbi).

    Within a frame, reaching u from an earlier entry j costs the labels between, so with
    L the running sum of their log-probabilities it is max_j (entry_j - L_j) + L_u: a
    running maximum, and only the T frames remain as a loop.

    Args:
        blank_TU: (T, U + 1) log-probability of the blank at each node.
        label_TU: (T, U) log-probability of the next label at each node.

    Returns:
        frames (T + U,), positions (T + U,), both int64, in the order of the path, and
        the path's log-probability.
    """
    T, columns = blank_TU.shape
    U = columns - 1
    blank_TU, label_TU = blank_TU.double(), label_TU.double()
    sums_TU = torch.cat([blank_TU.new_zeros(T, 1), label_TU.cumsum(1)], 1)
    entries = torch.empty(T, columns, dtype=torch.long)
    entry = blank_TU.new_full((columns,), -torch.inf)
    entry[0] = 0.0
    for t in range(T):
        best, entries[t] = (entry - sums_TU[t]).cummax(0)
        reached = best + sums_TU[t]
        entry = reached + blank_TU[t]
    frames, positions = [], []
    u = U
    for t in range(T - 1, -1, -1):
        first = int(entries[t, u])
        positions += range(u, first - 1, -1)
        frames += [t] * (u - first + 1)
        u = first
    return (
        torch.tensor(frames[::-1]),
        torch.tensor(positions[::-1]),
        float(entry[U]),
    )


def emission_frames(frames: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The frame (U,) in which a path of `best_path` emits each label."""
    return frames[:-1][positions[1:] > positions[:-1]]
