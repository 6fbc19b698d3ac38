"""How the losses of several targets become one."""

from collections.abc import Sequence

import torch
from torch import nn

from espnet_mtkd.objective.sample import num_processes

DECAY = 0.99  # of running means, for each update
DROP = 0.5  # probability
SMALLEST = 1e-6  # loss that is divided by


class FixedBalance(nn.Module):
    """L = sum_k w_k L_k, with L_k target k's mean over all valid frames.

    Args:
        weights: of the K targets; only their proportions count.
        teachers: K names, whose target it is.

    Attributes:
        statistic: what the second part of the result is called; None: it says nothing.
    """

    statistic: str | None = None

    def __init__(self, weights: Sequence[float], teachers: Sequence[str]):
        super().__init__()
        weights_K = torch.tensor(weights)
        # Not in checkpoints: the config has them.
        shares_K = weights_K / weights_K.sum()
        self.register_buffer("weights", shares_K, persistent=False)
        self.teachers = list(teachers)

    def forward(self, sums_KB, frames_KB):
        """One loss of those of K targets in B utterances.

        While validating, all balances are this one, so that epochs are compared by the
        same measure.

        Args:
            sums_KB: (K, B) losses, summed over an utterance's valid frames.
            frames_KB: (K, B) their numbers.

        Returns:
            Scalar loss, and (K,) factors beside the targets' weights, detached.
        """
        return self.fixed(sums_KB, frames_KB), torch.ones_like(self.weights)

    def fixed(self, sums_KB, frames_KB):
        """Scalar: the weighted mean itself."""
        return (self.weights * average(sums_KB, frames_KB)).sum()


class RunningBalance(FixedBalance):
    """L = sum_k w_k L_k / m_k, with m_k the running mean of L_k over updates.

    So no target counts for more because its loss has larger numbers: what is learnt is
    the relative decrease. m_k is an exponential mean with `DECAY`, bias corrected as in
    Adam (arXiv 1412.6980), over all processes; it is a buffer, so a resumed training
    has it.
    """

    statistic = "factor"

    def __init__(self, weights: Sequence[float], teachers: Sequence[str]):
        super().__init__(weights, teachers)
        self.register_buffer("running", torch.zeros(len(weights)))
        self.register_buffer("num_updates", torch.zeros(len(weights)))

    def forward(self, sums_KB, frames_KB):
        """See `FixedBalance`."""
        if not self.training:
            return super().forward(sums_KB, frames_KB)
        self._update(sums_KB.detach(), frames_KB)
        mean_K = self.running / (1 - DECAY**self.num_updates).clamp(min=SMALLEST)
        factor_K = 1 / mean_K.clamp(min=SMALLEST)
        loss = (self.weights * factor_K * average(sums_KB, frames_KB)).sum()
        return loss, factor_K

    @torch.no_grad()
    def _update(self, sums_KB, frames_KB) -> None:
        totals = torch.stack([sums_KB.sum(1), frames_KB.sum(1)])
        if num_processes() > 1:
            torch.distributed.all_reduce(totals)
        loss_K = totals[0] / totals[1].clamp(min=1)
        # A target without a frame in this batch, or one whose loss is not finite (such
        # a step is skipped), leaves the mean as it was.
        counts = (totals[1] > 0) & loss_K.isfinite()
        updated = DECAY * self.running + (1 - DECAY) * loss_K
        self.running.copy_(torch.where(counts, updated, self.running))
        self.num_updates.add_(counts)


class UncertaintyBalance(FixedBalance):
    """L = sum_k w_k (exp(-s_k) L_k + s_k), with s_k learnt.

    Kendall, Gal and Cipolla (arXiv 1705.07115), for errors whose absolute value is
    minimised: the negative log-likelihood under Laplace's distribution of scale
    exp(s_k). For a constant L_k it is least where exp(-s_k) = 1 / L_k.
    """

    statistic = "factor"

    def __init__(self, weights: Sequence[float], teachers: Sequence[str]):
        super().__init__(weights, teachers)
        self.log_scales = nn.Parameter(torch.zeros(len(weights)))

    def forward(self, sums_KB, frames_KB):
        """See `FixedBalance`; the loss may be below 0."""
        if not self.training:
            return super().forward(sums_KB, frames_KB)
        factor_K = (-self.log_scales).exp()
        terms_K = factor_K * average(sums_KB, frames_KB) + self.log_scales
        return (self.weights * terms_K).sum(), factor_K.detach()


class DropBalance(FixedBalance):
    """Of each utterance the teacher that is furthest away, of the others some.

    UNIC's teacher dropping (arXiv 2408.05088): the teacher with the highest loss in an
    utterance is kept, each other one left out with probability `DROP`,

        L = sum_kb w_k c_kb S_kb / sum_kb w_k c_kb N_kb,

    S_kb the loss summed over the N_kb frames of utterance b, c_kb 0 or 1, the same for
    all targets of a teacher. A teacher's loss is the weighted mean of its targets'.
    """

    statistic = "kept"

    def __init__(self, weights: Sequence[float], teachers: Sequence[str]):
        super().__init__(weights, teachers)
        names = list(dict.fromkeys(teachers))
        of = [[float(teacher == name) for teacher in teachers] for name in names]
        self.register_buffer("of_teacher", torch.tensor(of), persistent=False)

    def forward(self, sums_KB, frames_KB):
        """See `FixedBalance`; the factors are the shares of utterances in which the
        targets were kept."""
        if not self.training:
            return super().forward(sums_KB, frames_KB)
        sums_KB = self.weights[:, None] * sums_KB
        frames_KB = self.weights[:, None] * frames_KB
        kept_KB = self._draw(sums_KB.detach(), frames_KB)
        num_frames = (kept_KB * frames_KB).sum().clamp(min=SMALLEST)
        return (kept_KB * sums_KB).sum() / num_frames, kept_KB.mean(1)

    @torch.no_grad()
    def _draw(self, sums_KB, frames_KB):
        loss_GB = self.of_teacher @ sums_KB
        loss_GB /= (self.of_teacher @ frames_KB).clamp(min=SMALLEST)
        kept_GB = torch.rand_like(loss_GB) >= DROP
        kept_GB.scatter_(0, loss_GB.argmax(0, keepdim=True), True)
        return self.of_teacher.T @ kept_GB.to(loss_GB.dtype)


BALANCE_CLASSES = {
    "fixed": FixedBalance,
    "running": RunningBalance,
    "uncertainty": UncertaintyBalance,
    "drop": DropBalance,
}


def average(sums_KB, frames_KB):
    """(K,) means over all valid frames of a batch; 0 where there is none."""
    return sums_KB.sum(1) / frames_KB.sum(1).clamp(min=1)
