"""Distillation at the nodes of the teacher's best alignment.

X. Yang, Q. Li and P. C. Woodland, "Knowledge Distillation for Neural Transducers from
Large Self-Supervised Pre-trained Models" (arXiv 2110.03334): the student matches the
teacher's distributions at the T + U nodes of the one best path instead of all T x U.

The teacher's distribution at a node is kept as the log-probabilities of a few tokens:
blank first, then the next label, then the likeliest others; all the rest is one more
outcome. The student's distribution is folded the same way, so the loss is a proper
Kullback-Leibler divergence: zero where the two agree, and for all V tokens stored that
of the whole distributions.
"""

import math

import torch
import torch.nn.functional as F

from espnet_mtkd.errors import ConfigError

VARIANTS = ("topk", "collapsed")
MIN_REST = 1e-6  # least probability of "the rest", so that its logarithm is finite
NEVER = -1e4  # log-probability of what cannot be; finite, so that gradients are


def choose_tokens(logp_NV, blank: int, next_label_N, k: int):
    """The tokens of each node whose log-probabilities are kept.

    Args:
        logp_NV: the teacher's log-probabilities.
        blank: id of the blank.
        next_label_N: id of the next label, -1 behind the last.
        k: tokens kept, 2 to V.

    Returns:
        ids (N, k) and their log-probabilities (N, k): blank, the next label (behind the
        last: the likeliest other token), then the likeliest others.
    """
    rank_NV = logp_NV.clone()
    rank_NV[:, blank] = torch.inf
    # Behind the last label the blank once more, with the rank that it has.
    has_label_N1 = (next_label_N >= 0)[:, None]
    second_N1 = torch.where(has_label_N1, next_label_N[:, None], blank)
    high_N1 = torch.where(has_label_N1, torch.finfo(rank_NV.dtype).max, torch.inf)
    rank_NV.scatter_(1, second_N1, high_N1.to(rank_NV))
    ids_Nk = rank_NV.topk(k, dim=1).indices
    return ids_Nk, logp_NV.gather(1, ids_Nk)


def path_kd_loss(
    logits_NV,
    ids_Nk,
    teacher_logp_Nk,
    has_label_N,
    temperature: float = 1.0,
    variant: str = "topk",
):
    """KL divergence of the student from the teacher, at each node.

    Args:
        logits_NV: of the student's joint network.
        ids_Nk, teacher_logp_Nk: of `choose_tokens`, log-probabilities at temperature 1.
        has_label_N: False behind the last label, where the second token is no label.
        temperature: of both distributions, over the k + 1 outcomes: the rest is one
            outcome first, and softened then, since how its probability is shared is not
            stored. So above 1, and with fewer than all V tokens, this is another
            divergence than that of the softened distributions over V tokens, and
            mostly a smaller one; zero where the two agree all the same. The loss is
            multiplied by its square (Hinton et al. 2015, arXiv 1503.02531).
        variant: `topk`, or `collapsed`: blank, next label and the rest (Panchapagesan
            et al., arXiv 2011.06110).

    Returns:
        (N,) fp32, in nats.

    Raises:
        ConfigError: another variant.
    """
    if variant not in VARIANTS:
        raise ConfigError(f"variant: expected one of {VARIANTS}, found '{variant}'")
    logp_NV = logits_NV.float().log_softmax(1)
    teacher_Nk = teacher_logp_Nk.float()
    if variant == "collapsed":
        ids_Nk, teacher_Nk = ids_Nk[:, :2], teacher_Nk[:, :2]
        # Behind the last label there is but the blank.
        no_label_Nk = torch.stack([torch.zeros_like(has_label_N), ~has_label_N], 1)
        ids_Nk = torch.where(no_label_Nk, ids_Nk[:, :1], ids_Nk)
    else:
        no_label_Nk = torch.zeros_like(ids_Nk, dtype=torch.bool)
    student_Nk = logp_NV.gather(1, ids_Nk).masked_fill(no_label_Nk, NEVER)
    teacher_Nk = teacher_Nk.masked_fill(no_label_Nk, NEVER)
    rest_N = logp_NV.scatter(1, ids_Nk, NEVER).logsumexp(1)
    # Storage in fp16 may bring the teacher's sum above 1.
    teacher_rest_N = (1.0 - teacher_Nk.exp().sum(1)).clamp(min=MIN_REST).log()
    q_NK = torch.cat([student_Nk, rest_N.clamp(min=math.log(MIN_REST))[:, None]], 1)
    p_NK = torch.cat([teacher_Nk, teacher_rest_N[:, None]], 1)
    q_NK = (q_NK / temperature).log_softmax(1)
    p_NK = (p_NK / temperature).log_softmax(1)
    return (p_NK.exp() * (p_NK - q_NK)).sum(1) * temperature**2


def place_nodes(
    frames_N,
    positions_N,
    teacher_shift: int,
    student_shift: int,
    time_shift: int,
    num_frames: int,
):
    """Where the student is compared with the teacher's nodes.

    Args:
        frames_N, positions_N: of the path.
        teacher_shift, student_shift: samples between frames.
        time_shift: student frames by which the student may be later than the teacher.
        num_frames: the student's.

    Returns:
        Student frames (M,), and the numbers (M,) of the nodes that are compared: of
        those that fall on one student node the last, where the path leaves it; none
        beyond the student's last frame.
    """
    student_N = frames_N * teacher_shift // student_shift + time_shift
    same = (student_N[1:] == student_N[:-1]) & (positions_N[1:] == positions_N[:-1])
    keep_N = F.pad(~same, (0, 1), value=True) & (student_N < num_frames)
    return student_N[keep_N], keep_N.nonzero()[:, 0]
