"""The best alignment of labels to frames through a transducer's lattice.

Node (t, u) of the lattice: t frames are done with and u labels emitted. From there a
blank leads to (t + 1, u), the next label to (t, u + 1). An alignment of U labels to T
frames visits T + U nodes; its last step is the blank at (T - 1, U). A. Graves, 2012
(arXiv 1211.3711), section 2.3.
"""

import torch
import torch.nn.functional as F


def best_paths(blank_BTU, label_BTU, num_frames_B, num_labels_B):
    """The likeliest alignment of each utterance (Viterbi), on whatever device.

    Within a frame, reaching u from an earlier entry j costs the labels between, so with
    L the running sum of their log-probabilities it is max_j (entry_j - L_j) + L_u: a
    running maximum, and only the T frames remain as a loop, for all utterances at once.

    Args:
        blank_BTU: (B, T, U + 1) log-probability of the blank at each node.
        label_BTU: (B, T, U) log-probability of the next label at each node. What
            stands behind an utterance's own T and U has to be finite and is not used.
        num_frames_B: (B,) int64, each utterance's T, from 1.
        num_labels_B: (B,) int64, each utterance's U.

    Returns:
        frames (B, T + U) and positions (B, T + U), int64, in the order of the path, an
        utterance's own T + U of them; and the paths' log-probabilities (B,), fp64.
    """
    B, T, columns = blank_BTU.shape
    blank_BTU, label_BTU = blank_BTU.double(), label_BTU.double()
    sums_BTU = F.pad(label_BTU.cumsum(2), (1, 0))
    u_B1 = num_labels_B[:, None]
    origins = []  # for each frame (B, U + 1): where a path that leaves it at u entered
    entry_BU = blank_BTU.new_full((B, columns), -torch.inf)
    entry_BU[:, 0] = 0.0
    score_B = blank_BTU.new_zeros(B)
    for t in range(T):
        best_BU, origin_BU = (entry_BU - sums_BTU[:, t]).cummax(1)
        entry_BU = best_BU + sums_BTU[:, t] + blank_BTU[:, t]
        origins.append(origin_BU)
        is_last_B = num_frames_B == t + 1
        score_B = torch.where(is_last_B, entry_BU.gather(1, u_B1)[:, 0], score_B)
    starts = []  # for each frame, the last first: the number of the path's node there
    for t in range(T - 1, -1, -1):
        has_frame_B1 = num_frames_B[:, None] > t
        u_B1 = torch.where(has_frame_B1, origins[t].gather(1, u_B1), u_B1)
        # Behind the utterance's last frame: beyond all of its nodes.
        starts.append(torch.where(has_frame_B1, t + u_B1, T + columns))
    starts_BT = torch.cat(starts[::-1], 1)
    node_N = torch.arange(T + columns - 1, device=blank_BTU.device)
    node_BN = node_N.expand(B, -1).contiguous()
    frames_BN = torch.searchsorted(starts_BT, node_BN, right=True) - 1
    return frames_BN, node_BN - frames_BN, score_B


def best_path(blank_TU: torch.Tensor, label_TU: torch.Tensor):
    """`best_paths` of one utterance.

    Args:
        blank_TU, label_TU: (T, U + 1) and (T, U).

    Returns:
        frames (T + U,), positions (T + U,), and the path's log-probability.
    """
    T, U = label_TU.shape
    sizes = (torch.tensor([n], device=blank_TU.device) for n in (T, U))
    frames, positions, scores = best_paths(blank_TU[None], label_TU[None], *sizes)
    return frames[0], positions[0], float(scores[0])


def emission_frames(frames: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The frame (U,) in which a path of `best_path` emits each label."""
    return frames[:-1][positions[1:] > positions[:-1]]
