"""The transducer loss in slices, where the (B, T, U, V) tensor would not fit.

The joint network's output is the largest tensor of a transducer's training: 8
utterances of 10 s with 60 labels and 500 tokens are 244 MB of logits, and as much again
for their gradient. Here joint and loss are computed for a few utterances at a time, cut
to their own lengths, and each slice's gradients are taken before the next is begun; so
only the gradients of encoder and decoder outputs and of the joint's parameters stay.
Value and gradients are those of the plain computation.
"""

import torch
from torch import nn

MAX_LOGITS = 8_000_000  # of a slice: 32 MB in fp32


def plan_slices(num_frames, num_labels, vocab_size: int, max_logits: int = MAX_LOGITS):
    """Which utterances are computed together: the largest first, like with like.

    Args:
        num_frames, num_labels: of each utterance.
        vocab_size: V.
        max_logits: of a slice, padding included; an utterance that has more is a slice
            of its own.

    Returns:
        Lists of utterance numbers.
    """
    order = sorted(range(len(num_frames)), key=lambda b: -num_frames[b])
    slices, longest = [], (0, 0)
    for b in order:
        size = max(longest[0], num_frames[b]), max(longest[1], num_labels[b] + 1)
        together = len(slices[-1]) + 1 if slices else 1
        if not slices or together * size[0] * size[1] * vocab_size > max_logits:
            slices.append([])
            size = num_frames[b], num_labels[b] + 1
        slices[-1].append(b)
        longest = size
    return slices


class _SlicedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, compute, slices, h_BTD, g_BUD, *parameters):
        inputs = [h_BTD, g_BUD, *parameters]
        grads = [
            torch.zeros_like(x) if need else None
            for x, need in zip(inputs, ctx.needs_input_grad[2:], strict=True)
        ]
        total = 0.0
        for index in slices:
            with torch.enable_grad():
                h = h_BTD.detach()[index].requires_grad_(grads[0] is not None)
                g = g_BUD.detach()[index].requires_grad_(grads[1] is not None)
                loss = compute(index, h, g)
            wanted = [
                (x, grad)
                for x, grad in zip([h, g, *parameters], grads, strict=True)
                if grad is not None
            ]
            if wanted:
                found = torch.autograd.grad(loss, [x for x, _ in wanted])
                for (x, grad), part in zip(wanted, found, strict=True):
                    if x is h or x is g:
                        grad[index] = part
                    else:
                        grad += part
            total = total + loss.detach()
        ctx.save_for_backward(*(g for g in grads if g is not None))
        ctx.needed = [g is not None for g in grads]
        return total

    @staticmethod
    def backward(ctx, grad_output):
        saved = iter(ctx.saved_tensors)
        grads = [next(saved) * grad_output if n else None for n in ctx.needed]
        return None, None, *grads


def sliced_transducer_loss(
    joint: nn.Module,
    criterion,
    h_BTD: torch.Tensor,
    g_BUD: torch.Tensor,
    labels_BU: torch.Tensor,
    num_frames_B: torch.Tensor,
    num_labels_B: torch.Tensor,
    max_logits: int = MAX_LOGITS,
) -> torch.Tensor:
    """Joint network and transducer loss, a slice of the batch at a time.

    Args:
        joint: ESPnet's `JointNetwork`.
        criterion: `warprnnt_pytorch.RNNTLoss` with reduction `mean`.
        h_BTD: encoder output.
        g_BUD: decoder output for the blank and all labels, (B, U + 1, D).
        labels_BU: without blanks, padded, int32.
        num_frames_B, num_labels_B: int32.
        max_logits: of a slice.

    Returns:
        The loss, mean over the batch, as the plain computation gives it.
    """
    frames, labels = num_frames_B.tolist(), num_labels_B.tolist()
    slices = plan_slices(frames, labels, joint.lin_out.out_features, max_logits)
    parameters = [p for p in joint.parameters() if p.requires_grad]

    def compute(index, h, g):
        T = max(frames[b] for b in index)
        U = max(labels[b] for b in index)
        logits = joint(h[:, :T].unsqueeze(2), g[:, : U + 1].unsqueeze(1))
        loss = criterion(
            logits, labels_BU[index, :U], num_frames_B[index], num_labels_B[index]
        )
        return loss * (len(index) / len(frames))

    return _SlicedLoss.apply(compute, slices, h_BTD, g_BUD, *parameters)
