"""One target of several layers of a teacher: their mean."""

import torch
from torch import nn

from espnet_mtkd.objective.normalize import find_outliers
from espnet_mtkd.objective.sample import FrameSample

EQUAL_SHARE = 0.5  # of the weights that is divided equally, whatever is learnt


class LayerMean(nn.Module):
    """Weighted mean of a teacher's standardised layers, of their own energy.

        y = s sum_l a_l x_l,   a_l = (1 - e) softmax(u)_l + e / L,
        s = sqrt( sum_l a_l C_ll / sum_lm a_l a_m C_lm ),

    with C the layers' products x_l x_m, averaged over a sample's frames and dimensions,
    and e = `EQUAL_SHARE`. A plain mean (u = 0) of similar layers is SKILL's target
    (arXiv 2402.16830); a softmax over layers is what ELMo (arXiv 1802.05365) and SUPERB
    (arXiv 2105.01051) read a network with. Here the weights make the target, so that
    learning has two ways of making it trivial. A mean of unlike layers is small, and
    small targets are near: s holds its energy at that of the layers, whatever the
    weights. And the weights may go to the layer that is easiest to predict: e keeps
    that at (1 + e) / 2 of two layers.

    Args:
        num_layers: L.
        dim: embedding dimension E of each.
        is_learnt: whether u is a parameter; otherwise it is 0.

    Attributes:
        products: (L, L), C.
    """

    def __init__(self, num_layers: int, dim: int, is_learnt: bool):
        super().__init__()
        self.dim = dim
        logits = torch.zeros(num_layers)
        self.logits = nn.Parameter(logits) if is_learnt else None
        self.register_buffer("products", torch.eye(num_layers))
        self.register_buffer("num_frames", torch.zeros((), dtype=torch.long))
        self._sample = FrameSample()

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called, here or before the checkpoint was written."""
        return bool(self.num_frames > 0)

    @property
    def shares(self):
        """(L,) weights of the layers, which sum to 1."""
        num = len(self.products)
        equal = self.products.new_full((num,), 1 / num)
        if self.logits is None:
            return equal
        learnt = self.logits.float().softmax(0)
        return (1 - EQUAL_SHARE) * learnt + EQUAL_SHARE * equal

    def observe(self, target_BTEs: list, lengths_B) -> None:
        """Add the valid frames of a batch, (B, T, E) for each layer, to the sample."""
        self._sample.add(torch.cat(target_BTEs, -1), lengths_B)

    @torch.no_grad()
    def fit(self, standardizers: list) -> None:
        """Set C from the sample; outliers of any layer are left out.

        Args:
            standardizers: of the layers, which are fitted.
        """
        num = len(standardizers)
        raw = self._sample.take(num * self.dim).split(self.dim, -1)
        is_outlier = torch.stack([find_outliers(x) for x in raw]).any(0)
        device = self.products.device
        pairs = zip(standardizers, raw, strict=True)
        x_LNE = torch.stack([s(x[~is_outlier].to(device)) for s, x in pairs])
        x_LN = x_LNE.double().flatten(1)
        self.products.copy_(x_LN @ x_LN.T / max(1, x_LN.size(1)))
        self.num_frames.fill_(len(is_outlier))

    def forward(self, target_BTEs: list, lengths_B):
        """Standardised layers of a batch -> their mean.

        Args:
            target_BTEs: (B, T, E) for each layer.
            lengths_B: (B,) valid frames, the same for all.

        Returns:
            (B, T, E) in fp32; 0 behind an utterance.
        """
        share = self.shares
        energy = (share * self.products.diagonal()).sum()
        scale = (energy / (share @ self.products @ share).clamp(min=1e-8)).sqrt()
        T = target_BTEs[0].size(1)
        valid_BT = torch.arange(T, device=lengths_B.device) < lengths_B[:, None]
        # What lies behind an utterance may be anything, NaN included, and would reach
        # the weights' gradient through a product with 0.
        layers = [x.masked_fill(~valid_BT[..., None], 0.0) for x in target_BTEs]
        return scale * sum(a * x for a, x in zip(share, layers, strict=True))
