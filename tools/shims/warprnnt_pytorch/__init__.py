"""RNN-T loss under the name that ESPnet imports, computed by torchaudio.

ESPnet's models import ``warprnnt_pytorch.RNNTLoss`` for every transducer, and no
package index carries that module. tools/setup.sh puts this folder behind
site-packages in ``sys.path``, so a real ``warprnnt_pytorch`` is used where it is
installed.
"""

import torch


class RNNTLoss(torch.nn.Module):
    """Negative log likelihood of a transducer, summed over all alignments.

    Equations 12 to 18 of A. Graves, "Sequence Transduction with Recurrent Neural
    Networks", 2012 (arXiv 1211.3711). The loss takes logits: it does the log softmax
    over the vocabulary itself, as warp-transducer does.

    Args:
        blank: Index of the blank symbol in the vocabulary.
        fastemit_lambda: Weight of FastEmit regularisation. Only 0, none, can be had.
        reduction: ``mean`` (sum over the batch divided by the number of utterances,
            not by lengths), ``sum`` or ``none``.

    Raises:
        ValueError: ``fastemit_lambda`` is not 0, or ``reduction`` is unknown.
    """

    def __init__(
        self,
        blank: int = 0,
        fastemit_lambda: float = 0.0,
        reduction: str = "mean",
    ):
        super().__init__()
        if fastemit_lambda != 0.0:
            raise ValueError(
                f"fastemit_lambda={fastemit_lambda}, but torchaudio's RNN-T loss has "
                "no FastEmit regularisation: set it to 0, or install warp-transducer "
                "(module warprnnt_pytorch), which is then used instead"
            )
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(
                f"reduction={reduction!r}, expected 'mean', 'sum' or 'none'"
            )
        self.blank = blank
        self.reduction = reduction

    def forward(
        self,
        acts: torch.Tensor,
        labels: torch.Tensor,
        act_lens: torch.Tensor,
        label_lens: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the loss.

        With B utterances, T encoder frames, U labels and V symbols, T and U being the
        greatest of ``act_lens`` and ``label_lens``:

        Args:
            acts: Logits of the joint network (B, T, U + 1, V), of any floating type;
                the loss is computed in float32.
            labels: Labels without blanks, padded (B, U).
            act_lens: Number of encoder frames of each utterance (B,).
            label_lens: Number of labels of each utterance (B,).

        Returns:
            The loss in nats, a scalar, or (B,) with reduction ``none``.
        """
        # Here, as whoever only decodes needs no more than ESPnet.
        from espnet_mtkd.transducer.lattice import lattice_loss

        logp = acts.float().log_softmax(-1)
        index = torch.nn.functional.pad(labels.long(), (0, 1))  # of the end: not read
        index = index[:, None, :, None].expand(-1, logp.shape[1], -1, -1)
        two = torch.cat([logp[..., self.blank, None], logp.gather(-1, index)], -1)
        loss = lattice_loss(two, act_lens.int(), label_lens.int())
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()
