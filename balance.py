"""How the losses of several targets become one.

The loss of target k is L_k, a mean over its valid frames, and w_k is its share of the
weights. In validation all rules give sum_k w_k L_k, so that epochs, and trainings with
other rules, are compared by one measure.
"""

import torch
from torch import nn

from espnet_mtkd.objective.sample import num_processes

MOMENTUM = 0.99  # of the running means, a batch
DROP_PROBABILITY = 0.5
MIN_LOSS = 1e-6  # a running mean below it divides as if it were that


class FixedBalance(nn.Module):
    """sum_k w_k L_k.

    Args:
        names: of the targets.
        teachers: the teacher of each.
        weights: w_k.
    """

    def __init__(self, names: list[str], teachers: list[str], weights: list[float]):
        super().__init__()
        self.names, self.teachers = names, teachers
        self.register_buffer("weights_K", torch.tensor(weights), persistent=False)

    def forward(self, sums_BK, frames_BK):
        """Loss of one batch.

        Args:
            sums_BK: each target's loss, summed over each utterance's valid frames.
            frames_BK: how many these are.

        Returns:
            Scalar, and statistics.
        """
        if self.training:
            return self.weigh(sums_BK, frames_BK)
        return self.fixed(sums_BK, frames_BK), {}

    def fixed(self, sums_BK, frames_BK):
        """Scalar: sum_k w_k L_k."""
        return (self.weights_K * means(sums_BK, frames_BK)).sum()

    def weigh(self, sums_BK, frames_BK):
        """As `forward`, of a batch that is learnt from."""
        return self.fixed(sums_BK, frames_BK), {}


class RunningBalance(FixedBalance):
    """sum_k w_k L_k / m_k, where m_k is the running mean of L_k.

    So each target's share of the gradient follows from its weight alone, whatever the
    size of its loss. m_k moves by 1 % a batch, over the frames of all processes, and
    begins with the first batch. It is a buffer; no gradient goes through it.
    """

    def __init__(self, names, teachers, weights):
        super().__init__(names, teachers, weights)
        self.register_buffer("running_K", torch.zeros(len(names)))

    def weigh(self, sums_BK, frames_BK):
        """See `FixedBalance`."""
        self._update(sums_BK.detach().sum(0), frames_BK.sum(0))
        factors_K = self.weights_K / self.running_K.clamp(min=MIN_LOSS)
        loss = (factors_K * means(sums_BK, frames_BK)).sum()
        # A copy: the buffer moves on.
        return loss, self._name("running", self.running_K.clone())

    @torch.no_grad()
    def _update(self, sums_K, frames_K):
        both = torch.stack([sums_K, frames_K])
        if num_processes() > 1:
            torch.distributed.all_reduce(both)
        mean_K = both[0] / both[1].clamp(min=1)
        old_K = self.running_K
        new_K = torch.where(
            old_K == 0, mean_K, MOMENTUM * old_K + (1 - MOMENTUM) * mean_K
        )
        # A batch without frames or with a loss that is no number tells nothing.
        is_known_K = (both[1] > 0) & mean_K.isfinite()
        self.running_K.copy_(torch.where(is_known_K, new_K, old_K))

    def _name(self, what: str, values_K) -> dict:
        return {f"{what}_{n}": v for n, v in zip(self.names, values_K, strict=True)}


class UncertaintyBalance(FixedBalance):
    """sum_k w_k (exp(-s_k) L_k + s_k), where s_k is learnt, from 0.

    Kendall et al. (arXiv 1705.07115, eq. 7 and 10): s_k is the logarithm of target k's
    variance, and both terms are half as large there. The sum is least at s_k = log L_k,
    so a target that cannot be learnt counts less. The loss may be negative.
    """

    def __init__(self, names, teachers, weights):
        super().__init__(names, teachers, weights)
        self.log_variance_K = nn.Parameter(torch.zeros(len(names)))

    def weigh(self, sums_BK, frames_BK):
        """See `FixedBalance`."""
        s_K, is_there_K = self.log_variance_K, frames_BK.sum(0) > 0
        terms_K = (-s_K).exp() * means(sums_BK, frames_BK) + s_K * is_there_K
        variances = zip(self.names, s_K.detach().exp(), strict=True)
        return (
            (self.weights_K * terms_K).sum(),
            {f"variance_{n}": v for n, v in variances},
        )


class TeacherDropping(FixedBalance):
    """Of each utterance the teacher with the highest loss, and half of the others.

    UNIC (arXiv 2408.05088): the others are dropped with probability 0.5 each, at random
    and for this batch. A teacher's loss is the weighted mean of its targets'. What is
    kept is averaged by weights and frames, and counts as much as all would.
    """

    def __init__(self, names, teachers, weights):
        super().__init__(names, teachers, weights)
        self.different = list(dict.fromkeys(teachers))
        belongs = [[t == teacher for teacher in self.different] for t in teachers]
        self.register_buffer(
            "belongs_KJ", torch.tensor(belongs).float(), persistent=False
        )

    def weigh(self, sums_BK, frames_BK):
        """See `FixedBalance`."""
        keep_BJ = self.choose(sums_BK.detach(), frames_BK)
        factors_BK = keep_BJ @ self.belongs_KJ.T * self.weights_K
        num_frames = (factors_BK * frames_BK).sum()
        # Without a frame both are 0.
        mean = (factors_BK * sums_BK).sum() / num_frames.clamp(min=1e-6)
        shares = zip(self.different, keep_BJ.mean(0), strict=True)
        return (
            self.weights_K.sum() * mean,
            {f"kept_{name}": share for name, share in shares},
        )

    @torch.no_grad()
    def choose(self, sums_BK, frames_BK):
        """Which teachers are kept: (B, J) of 0 and 1."""
        losses_BK = sums_BK / frames_BK.clamp(min=1)
        weights_KJ = self.weights_K[:, None] * self.belongs_KJ
        losses_BJ = losses_BK @ weights_KJ / weights_KJ.sum(0)
        keep_BJ = torch.rand_like(losses_BJ) >= DROP_PROBABILITY
        return keep_BJ.scatter(1, losses_BJ.argmax(1, keepdim=True), True).float()


BALANCES = {
    "fixed": FixedBalance,
    "running": RunningBalance,
    "uncertainty": UncertaintyBalance,
    "drop": TeacherDropping,
}


def means(sums_BK, frames_BK):
    """L_k: (K,), each a mean over all utterances' frames."""
    return sums_BK.sum(0) / frames_BK.sum(0).clamp(min=1)
