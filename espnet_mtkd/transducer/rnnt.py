"""The transducer loss in slices, where the (B, T, U, V) tensor would not fit.

The joint network's output is the largest tensor of a transducer's training: 8
utterances of 10 s with 60 labels and 500 tokens are 244 MB of logits, and as much again
for their gradient. Here joint and loss are computed for a few utterances at a time, cut
to their own lengths, and each slice's gradients are taken before the next is begun; so
only the gradients of encoder and decoder outputs and of the joint's parameters stay.
Value and gradients are those of the plain computation.

Gradients that are taken before the backward pass know nothing of a gradient scaler's
factor, and fp16 would lose the small ones. So autocast is off in the slices: joint and
loss have the precision of the joint's parameters, and gradients are kept in fp32 until
the one that comes in, with the factor, has been multiplied on.
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
    def forward(ctx, compute, slices, dtype, h_BTD, g_BUD, *parameters):
        inputs = [h_BTD, g_BUD, *parameters]
        needed = ctx.needs_input_grad[3:]
        grads = [
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
            if need
            else None
            for x, need in zip(inputs, needed, strict=True)
        ]
        total = 0.0
        for index in slices:
            with torch.enable_grad():
                h = h_BTD.detach()[index].to(dtype).requires_grad_(needed[0])
                g = g_BUD.detach()[index].to(dtype).requires_grad_(needed[1])
                loss = compute(index, h, g)
            wanted = [
                (x, grad)
                for x, grad in zip([h, g, *parameters], grads, strict=True)
                if grad is not None
            ]
            found = torch.autograd.grad(loss, [x for x, _ in wanted])
            for (x, grad), part in zip(wanted, found, strict=True):
                if x is h or x is g:
                    grad[index] = part.to(grad.dtype)
                else:
                    grad += part
            total = total + loss.detach()
        ctx.save_for_backward(*(g for g in grads if g is not None))
        ctx.dtypes = [
            x.dtype if need else None for x, need in zip(inputs, needed, strict=True)
        ]
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        saved = iter(ctx.saved_tensors)
        grads = [
            (next(saved) * grad_output).to(dtype) if dtype is not None else None
            for dtype in ctx.dtypes
        ]
        return None, None, None, *grads


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
        The loss, mean over the batch, as the plain computation gives it
        without autocast.
    """
    frames, labels = num_frames_B.tolist(), num_labels_B.tolist()
    slices = plan_slices(frames, labels, joint.lin_out.out_features, max_logits)
    parameters = [p for p in joint.parameters() if p.requires_grad]
    dtype = joint.lin_out.weight.dtype

    def compute(index, h, g):
        T = max(frames[b] for b in index)
        U = max(labels[b] for b in index)
        logits = joint(h[:, :T].unsqueeze(2), g[:, : U + 1].unsqueeze(1))
        loss = criterion(
            logits, labels_BU[index, :U], num_frames_B[index], num_labels_B[index]
        )
        return loss * (len(index) / len(frames))

    differentiable = [x for x in (h_BTD, g_BUD, *parameters) if x.requires_grad]
    # Around the gradients too: autocast reaches the products that these are made of.
    with torch.autocast(h_BTD.device.type, enabled=False):
        if torch.is_grad_enabled() and differentiable:
            return _SlicedLoss.apply(compute, slices, dtype, h_BTD, g_BUD, *parameters)
        return sum(
            compute(index, h_BTD[index].to(dtype), g_BUD[index].to(dtype))
            for index in slices
        )
