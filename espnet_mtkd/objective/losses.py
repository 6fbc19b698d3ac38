"""Distance between predicted and teacher embeddings, in each utterance."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from espnet_mtkd.errors import ConfigError, shown
from espnet_mtkd.objective.options import is_number

CODEBOOK_SIZE = 256  # entries: a code is one byte


class EmbeddingLoss(nn.Module):
    """Weighted sum of L1, mean squared error and 1 - cosine in each utterance.

    L1 and MSE average over the E dimensions of an embedding. L1 with cosine is the
    objective of DistilHuBERT (arXiv 2110.01900, eq. 1), there with log-sigmoid around
    the cosine; here the plain 1 - cos, whose gradient does not depend on a temperature.

    Args:
        l1, mse, cosine: weights of the three parts.
        codes: weight of `CodebookLoss` beside them, which is not computed here; 0 where
            codes are not learnt.

    Attributes:
        statistic: the part that is reported beside the loss.

    Raises:
        ConfigError: l1, mse and cosine are all zero, or a weight is negative, infinite
            or no number.
    """

    statistic = "cosine"

    def __init__(
        self,
        l1: float = 1.0,
        mse: float = 0.0,
        cosine: float = 1.0,
        codes: float = 0.0,
    ):
        super().__init__()
        weights = dict(l1=l1, mse=mse, cosine=cosine)
        if not all(
            is_number(w) and 0 <= w < math.inf for w in (*weights.values(), codes)
        ) or not any(weights.values()):
            raise ConfigError(
                "loss_conf: expected finite weights >= 0, those of l1, mse and cosine "
                f"not all of them 0, found {shown(dict(weights, codes=codes))}"
            )
        self.weights, self.codes = weights, codes

    def extra_repr(self) -> str:
        weights = dict(self.weights, codes=self.codes)
        return ", ".join(f"{k}={v}" for k, v in weights.items())

    def forward(self, predicted_BTRE, target_BTRE, lengths_B):
        """Loss and its parts, summed over the first `lengths_B` frames of utterances.

        Args:
            predicted_BTRE: (B, T, R, E).
            target_BTRE: (B, T, R, E).
            lengths_B: (B,) valid student frames, at most T.

        Returns:
            (B,) losses in fp32, and detached (B,) of the parts that have a weight, and
            of the cosine, which is the similarity itself. No valid frame gives a loss
            of 0 with zero gradient.
        """
        T = predicted_BTRE.size(1)
        valid_BT = torch.arange(T, device=lengths_B.device) < lengths_B[:, None]
        predicted = predicted_BTRE.float()
        # What lies behind an utterance may be anything, inf and NaN included, and
        # would reach the gradient through a product with 0.
        target = target_BTRE.float().masked_fill(~valid_BT[..., None, None], 0.0)

        def add_up(value_BTR):
            return (value_BTR.mean(-1) * valid_BT).sum(1)

        # Each part is another pass over all targets, and so is its gradient.
        weights, terms = self.weights, {}
        if weights["l1"] > 0:
            terms["l1"] = add_up((predicted - target).abs().mean(-1))
        if weights["mse"] > 0:
            terms["mse"] = add_up((predicted - target).square().mean(-1))
        parts = dict(terms)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights["cosine"] > 0):
            cosine_BTR = F.cosine_similarity(predicted, target, dim=-1)
            parts["cosine"] = add_up(cosine_BTR)
            terms["cosine"] = add_up(1.0 - cosine_BTR)
        loss = sum(weights[k] * term for k, term in terms.items() if weights[k] > 0)
        return loss, {k: v.detach() for k, v in parts.items()}


class CodebookLoss(nn.Module):
    """Cross-entropy of predicted codes, averaged over codebooks, in each utterance.

    What MVQ-KD (arXiv 2211.00508) trains with: each codebook is a classification of its
    own, independent of the others given the student's frame.
    """

    statistic = "accuracy"
    codes = 0.0  # nothing beside what it is itself

    def forward(self, logits_BTRC, target_BTRM, lengths_B):
        """Loss and its parts, summed over the first `lengths_B` frames of utterances.

        Args:
            logits_BTRC: (B, T, R, M * 256), codebook after codebook.
            target_BTRM: (B, T, R, M) codes, uint8.
            lengths_B: (B,) valid student frames, at most T.

        Returns:
            (B,) losses in fp32 (nats), and {"accuracy"}, (B,) shares of codes whose
            entry is the likeliest, each summed over frames. No valid frame gives a loss
            of 0 with zero gradient.
        """
        T, M = logits_BTRC.size(1), target_BTRM.size(-1)
        valid_BT = torch.arange(T, device=lengths_B.device) < lengths_B[:, None]
        logits = logits_BTRC[valid_BT].float().unflatten(-1, (M, -1))  # (N, R, M, K)
        target = target_BTRM[valid_BT].long()

        def add_up(value_NRM):
            frames_BT = torch.zeros_like(valid_BT, dtype=torch.float32)
            return frames_BT.masked_scatter(valid_BT, value_NRM.mean((1, 2))).sum(1)

        rows, classes = logits.flatten(0, 2), target.flatten()
        loss = F.cross_entropy(rows, classes, reduction="none").view(target.shape)
        hits = (logits.detach().argmax(-1) == target).float()
        return add_up(loss), {"accuracy": add_up(hits)}
