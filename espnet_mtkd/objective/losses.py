"""Distance between predicted and teacher embeddings."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from espnet_mtkd.errors import ConfigError

CODEBOOK_SIZE = 256  # entries: a code is one byte


class EmbeddingLoss(nn.Module):
    """Weighted sum of L1, mean squared error and 1 - cosine over the valid frames.

    L1 and MSE average over the E dimensions of an embedding. L1 with cosine is the
    objective of DistilHuBERT (arXiv 2110.01900, eq. 1), there with log-sigmoid around
    the cosine; here the plain 1 - cos, whose gradient does not depend on a temperature.

    Args:
        l1, mse, cosine: weights of the three parts.

    Attributes:
        statistic: the part that is reported beside the loss.

    Raises:
        ConfigError: all weights are zero, or one is negative, infinite or no number.
    """

    statistic = "cosine"

    def __init__(self, l1: float = 1.0, mse: float = 0.0, cosine: float = 1.0):
        super().__init__()
        weights = dict(l1=l1, mse=mse, cosine=cosine)
        if not all(
            isinstance(w, (int, float)) and 0 <= w < math.inf for w in weights.values()
        ) or not any(weights.values()):
            raise ConfigError(
                "loss_conf: expected finite weights >= 0, not all of them 0, found "
                f"{weights}"
            )
        self.weights = weights

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in self.weights.items())

    def forward(self, predicted_BTRE, target_BTRE, lengths_B):
        """Loss and its parts over the first `lengths_B` frames of each utterance.

        Args:
            predicted_BTRE: (B, T, R, E).
            target_BTRE: (B, T, R, E).
            lengths_B: (B,) valid student frames.

        Returns:
            Scalar loss in fp32, and detached scalars of the parts that have a weight,
            and of the cosine, which is the similarity itself. No valid frame gives a
            loss of 0 with zero gradient.
        """
        T = predicted_BTRE.size(1)
        valid_BT = torch.arange(T, device=lengths_B.device) < lengths_B[:, None]
        predicted = predicted_BTRE.float()
        # What lies behind an utterance may be anything, inf and NaN included, and
        # would reach the gradient through a product with 0.
        target = target_BTRE.float().masked_fill(~valid_BT[..., None, None], 0.0)
        num_frames = valid_BT.sum().clamp(min=1)

        def average(value_BTR):
            return (value_BTR.mean(-1) * valid_BT).sum() / num_frames

        # Each part is another pass over all targets, and so is its gradient.
        weights, terms = self.weights, {}
        if weights["l1"] > 0:
            terms["l1"] = average((predicted - target).abs().mean(-1))
        if weights["mse"] > 0:
            terms["mse"] = average((predicted - target).square().mean(-1))
        parts = dict(terms)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weights["cosine"] > 0):
            cosine_BTR = F.cosine_similarity(predicted, target, dim=-1)
            parts["cosine"] = average(cosine_BTR)
            terms["cosine"] = average(1.0 - cosine_BTR)
        loss = sum(weights[k] * term for k, term in terms.items() if weights[k] > 0)
        return loss, {k: v.detach() for k, v in parts.items()}


class CodebookLoss(nn.Module):
    """Cross-entropy of predicted codes, averaged over codebooks and valid frames.

    What MVQ-KD (arXiv 2211.00508) trains with: each codebook is a classification of its
    own, independent of the others given the student's frame.
    """

    statistic = "accuracy"

    def forward(self, logits_BTRC, target_BTRM, lengths_B):
        """Loss and its parts over the first `lengths_B` frames of each utterance.

        Args:
            logits_BTRC: (B, T, R, M * 256), codebook after codebook.
            target_BTRM: (B, T, R, M) codes, uint8.
            lengths_B: (B,) valid student frames.

        Returns:
            Scalar loss in fp32 (nats), and {"accuracy"}, the share of codes whose
            entry is the likeliest. No valid frame gives a loss of 0 with zero gradient.
        """
        T, M = logits_BTRC.size(1), target_BTRM.size(-1)
        valid_BT = torch.arange(T, device=lengths_B.device) < lengths_B[:, None]
        logits = logits_BTRC[valid_BT].float().unflatten(-1, (M, -1))  # (N, R, M, K)
        target = target_BTRM[valid_BT].long()
        loss = F.cross_entropy(logits.flatten(0, 2), target.flatten(), reduction="sum")
        num_codes = max(1, target.numel())
        hits = (logits.detach().argmax(-1) == target).sum()
        return loss / num_codes, {"accuracy": hits / num_codes}
