"""The transducer loss of the log-probabilities of blank and next label."""

import torch
import torch.nn.functional as F
import torchaudio

NEVER = -1e30  # a log-probability that is no maximum


def lattice_loss(logp_BTU2, num_frames_B, num_labels_B) -> torch.Tensor:
    """Negative log-likelihood of a transducer, summed over all alignments.

    A. Graves, "Sequence Transduction with Recurrent Neural Networks" (arXiv 1211.3711),
    equations 12 to 18, by torchaudio, over a vocabulary of two. A path has one blank at
    each frame and each label once: what is taken off all blanks of a frame, or off a
    label at all frames, is taken off every path. With the greatest of them off, sums
    stay small: without that, gradients in fp32 have ten times the error where no token
    is much likelier than others.

    Args:
        logp_BTU2: fp32; at each node (T frames, U labels and the end) the
            log-probabilities of the blank and of the next label.
        num_frames_B, num_labels_B: int32.

    Returns:
        (B,), in nats, differentiable.
    """
    B, T, U, _ = logp_BTU2.shape
    device = logp_BTU2.device
    is_frame = torch.arange(T, device=device) < num_frames_B[:, None]
    is_label = torch.arange(U - 1, device=device) < num_labels_B[:, None]
    is_row = F.pad(is_label, (1, 0), value=True)
    logp = logp_BTU2.detach()
    blank = logp[..., 0].masked_fill(~is_row[:, None], NEVER).amax(2)
    label = logp[:, :, :-1, 1].masked_fill(~is_frame[:, :, None], NEVER).amax(1)
    # (Not by a product: behind an utterance stands anything, NaN included.)
    blank, label = blank.masked_fill(~is_frame, 0.0), label.masked_fill(~is_label, 0.0)
    off = torch.stack([blank[:, :, None].expand(B, T, U), _beside(label, T)], -1)
    loss = torchaudio.functional.rnnt_loss(
        logp_BTU2 - off,
        torch.ones(B, U - 1, dtype=torch.int32, device=device),
        num_frames_B,
        num_labels_B,
        blank=0,
        reduction="none",
        fused_log_softmax=False,
    )
    return loss - blank.sum(1) - label.sum(1)


def _beside(label_BU, num_frames: int):
    """(B, T, U + 1): at all frames alike, 0 behind the last label."""
    return F.pad(label_BU, (0, 1))[:, None].expand(-1, num_frames, -1)
