"""One target of several layers of a teacher: their learnt mean."""

import torch
from torch import nn

from espnet_mtkd.objective.normalize import find_outliers
from espnet_mtkd.objective.sample import MAX_FRAMES, FrameSample

LEAST = 0.5  # of an equal share, that each layer keeps


class LayerMixer(nn.Module):
    """y = sum_k a_k y_k / r, of K standardised layers y_k of equal dimension.

    The weights are learnt with the student: a_k = (1 - c) softmax(u)_k + c / K, with
    u = 0 in the beginning. In ELMo (arXiv 1802.05365, eq. 1) and SUPERB such a mean is
    the input of a task that holds it to what is useful; here it is the target, and what
    is easy to predict has the least loss. Two ways down are closed:

    - A mean of layers that differ has a smaller variance, and so a smaller distance.
      r keeps the mean square of the target: r^2 = a' C a / mean_k C_kk, with C_kl the
      mean of y_k y_l over frames and dimensions of a sample.
    - One layer that is near to the audio could be all that is left. c = 0.5 leaves each
      layer half of an equal share. Which one grows is reported.

    Args:
        names: of the layers' targets.
        dim: embedding dimension E.

    Attributes:
        product: (K, K), C.
        num_frames: of the sample.
    """

    def __init__(self, names: list[str], dim: int):
        super().__init__()
        self.names, self.dim = names, dim
        self.logits = nn.Parameter(torch.zeros(len(names)))
        self.register_buffer("product", torch.eye(len(names)))
        self.register_buffer("num_frames", torch.zeros((), dtype=torch.long))
        self._sample = FrameSample(max(2, MAX_FRAMES // len(names)))

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called, here or before the checkpoint was written."""
        return bool(self.num_frames > 0)

    @property
    def shares(self):
        """(K,), a: above 0, their sum is 1."""
        return (1 - LEAST) * self.logits.softmax(0) + LEAST / len(self.logits)

    def observe(self, targets: dict) -> None:
        """Add a batch to the sample.

        Args:
            targets: {name: ((B, T, E) embeddings as the teacher gave them, (B,))}.
        """
        layers = [targets[name][0].float() for name in self.names]
        self._sample.add(torch.cat(layers, dim=-1), targets[self.names[0]][1])

    @torch.no_grad()
    def fit(self, standardize) -> None:
        """Set C from the sample, over all processes; frames that stand out do not count.

        Args:
            standardize: function (name, (N, E)) -> (N, E).

        Raises:
            ValueError: fewer than two frames were observed.
        """
        x = self._sample.take(self.dim * len(self.names)).to(self.product.device)
        parts = x.split(self.dim, dim=1)
        y = [standardize(n, p) for n, p in zip(self.names, parts, strict=True)]
        y = torch.cat(y, dim=1)
        y = y[~find_outliers(y)].unflatten(1, (len(self.names), self.dim)).double()
        self.product.copy_(torch.einsum("nke,nle->kl", y, y) / (len(y) * self.dim))
        self.num_frames.fill_(len(x))

    def forward(self, layers: list[torch.Tensor]):
        """Standardised layers, each (B, T, E) -> (B, T, E)."""
        shares_K, product_KK = self.shares, self.product
        square = shares_K @ product_KK @ shares_K / product_KK.diagonal().mean()
        factors_K = shares_K / square.sqrt()
        return sum(f * y for f, y in zip(factors_K, layers, strict=True))

    def statistics(self) -> dict:
        """{`share_<name>`: a_k}, detached."""
        shares = zip(self.names, self.shares.detach(), strict=True)
        return {f"share_{name}": share for name, share in shares}
