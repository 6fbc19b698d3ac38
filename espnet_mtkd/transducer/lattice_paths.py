"""What the best path needs of a transducer's lattice, without the lattice.

Of the V log-probabilities of each of T x (U + 1) nodes the search asks for two, the
blank's and the next label's. So the joint network's logits are computed a few frames at
a time, and of these only the normaliser and the two are kept.
"""

import torch
import torch.nn.functional as F

from espnet_mtkd.transducer.kd import choose_tokens
from espnet_mtkd.transducer.path import best_paths

CPU_LOGITS = 2**18  # at a time: 1 MB, what a core's cache holds
GPU_LOGITS = 2**28  # a gigabyte


def num_logits(device: torch.device) -> int:
    """How many of the joint network's outputs are computed at a time."""
    return CPU_LOGITS if device.type == "cpu" else GPU_LOGITS


def align(joint, h_TD, g_UD, labels, blank: int):
    """The best path of each utterance of a batch.

    Args:
        joint: ESPnet's `JointNetwork`.
        h_TD: B tensors (T, D), the encoder's frames.
        g_UD: B tensors (U + 1, D), of the prediction network.
        labels: B int64 tensors (U,), on the same device.
        blank: id.

    Returns:
        For each utterance frames (T + U,), positions (T + U,), int64, the
        log-probability (T, U) of the next label at each node, and whether all logits
        of its lattice are finite, (), bool: else the rest means nothing.
    """
    blanks, nexts, are_finite = zip(
        *(
            lattice_planes(joint, *x, blank)
            for x in zip(h_TD, g_UD, labels, strict=True)
        ),
        strict=True,
    )
    device = h_TD[0].device
    sizes = torch.tensor([[len(h), len(x)] for h, x in zip(h_TD, labels, strict=True)])
    sizes = sizes.to(device, non_blocking=True)
    frames_BN, positions_BN, _ = best_paths(
        _pad(blanks), _pad(nexts), sizes[:, 0], sizes[:, 1]
    )
    nums = [len(h) + len(x) for h, x in zip(h_TD, labels, strict=True)]
    return [
        (frames_BN[b, :n], positions_BN[b, :n], nexts[b], are_finite[b])
        for b, n in enumerate(nums)
    ]


def _pad(planes):
    """(B, T, U) of planes of different sizes; 0 behind each."""
    out = planes[0].new_zeros(
        len(planes), *(max(p.size(d) for p in planes) for d in (0, 1))
    )
    for row_TU, plane_TU in zip(out, planes, strict=True):
        row_TU[: plane_TU.size(0), : plane_TU.size(1)] = plane_TU
    return out


def path_nodes(joint, h_TD, g_UD, labels, blank: int, num_tokens: int):
    """Best paths and the tokens kept at their nodes.

    Args:
        joint, h_TD, g_UD, labels, blank: see `align`.
        num_tokens: k.

    Returns:
        `nodes` (N, 2 + k) int32, frame, position and token ids, and `logp` (N, k) fp16,
        the utterances' T + U nodes one after another; and (B,) bool, see `align`.
    """
    nodes, h_ND, g_ND, next_N = [], [], [], []
    paths = align(joint, h_TD, g_UD, labels, blank)
    for h, g, labels_U, (frames, positions, *_) in zip(
        h_TD, g_UD, labels, paths, strict=True
    ):
        nodes.append(torch.stack([frames, positions], 1))
        h_ND.append(h[frames])
        g_ND.append(g[positions])
        next_N.append(F.pad(labels_U, (0, 1), value=-1)[positions])
    h_ND, g_ND, next_N = (torch.cat(x) for x in (h_ND, g_ND, next_N))
    size = max(1, num_logits(h_ND.device) // joint.lin_out.out_features)
    parts = [
        choose_tokens(joint(h, g).float().log_softmax(1), blank, next_label, num_tokens)
        for h, g, next_label in zip(
            *(x.split(size) for x in (h_ND, g_ND, next_N)), strict=True
        )
    ]
    ids_Nk, logp_Nk = (torch.cat(x) for x in zip(*parts, strict=True))
    is_finite_B = torch.stack([is_finite for *_, is_finite in paths])
    return torch.cat([torch.cat(nodes), ids_Nk], 1).int(), logp_Nk.half(), is_finite_B


def lattice_planes(joint, h_TD, g_UD, labels_U, blank: int):
    """Log-probabilities of blank and next label at each node of one utterance.

    Args:
        joint: ESPnet's `JointNetwork`.
        h_TD: encoder's frames.
        g_UD: (U + 1, D) of the prediction network.
        labels_U: (U,) int64, on the same device.
        blank: id.

    Returns:
        blank_TU (T, U + 1) and label_TU (T, U), fp32, and whether all logits are
        finite, (), bool.
    """
    size = num_logits(h_TD.device) // (len(g_UD) * joint.lin_out.out_features)
    planes = [
        two_planes(joint(part_TD[:, None], g_UD[None]), labels_U, blank)
        for part_TD in h_TD.split(max(1, size))
    ]
    blanks, nexts, sums = zip(*planes, strict=True)
    return torch.cat(blanks), torch.cat(nexts), torch.stack(sums).isfinite().all()


def two_planes(logits_TUV, labels_U, blank: int):
    """Both planes of logits (T, U + 1, V), which are overwritten, and the logits' sum.

    The sum is finite where all logits are. The planes do not tell: a token that can
    never come, with a logit of -inf, leaves the normaliser as it is.
    """
    logits_TUV = logits_TUV.float()
    T, columns, _ = logits_TUV.shape
    index_TU1 = labels_U[None, :, None].expand(T, columns - 1, 1)
    label_TU = logits_TUV[:, :-1].gather(2, index_TU1)[..., 0]
    blank_TU = logits_TUV[..., blank].clone()
    logits_sum = logits_TUV.sum()
    highest_TU1 = logits_TUV.amax(2, keepdim=True)
    total_TU = logits_TUV.sub_(highest_TU1).exp_().sum(2).log_() + highest_TU1[..., 0]
    return blank_TU - total_TU, label_TU - total_TU[:, :-1], logits_sum
