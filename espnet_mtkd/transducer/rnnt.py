"""The transducer loss without the (B, T, U, V) tensor.

The joint network's output is the largest tensor of a transducer's training: 8
utterances of 10 s with 60 labels and 500 tokens are 244 MB of logits, and as much again
for their gradient. But of each node's distribution the lattice needs two numbers, the
log-probabilities of the blank and of the next label. So the joint network is computed a
slice of the nodes at a time, and these two are kept; the loss runs forward and backward
over them; and from its gradients G those of the logits follow, a slice at a time again:

    dL/dz_v = G_blank ([v = blank] - p_v) + G_label ([v = label] - p_v)

Slices that are small enough together are kept for this, others are computed once more.
Utterances are cut to their own lengths, so padding costs next to nothing. Value and
gradients are those of the plain computation.

The gradients are taken before the backward pass, where nothing is known of a gradient
scaler's factor, and fp16 would lose the small ones. So autocast is off here: joint and
loss have the precision of the joint's parameters, and gradients are kept in fp32 until
the one that comes in, with the factor, has been multiplied on.
"""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import nn
from warprnnt_pytorch import RNNTLoss

from espnet_mtkd.transducer.lattice import lattice_loss

# Numbers of a slice, at the joint network's widest place. What a core's cache holds is
# quicker than what it does not; a GPU wants work.
MAX_LOGITS = {"cpu": 500_000}
MAX_LOGITS_ELSEWHERE = 16_000_000
MAX_KEPT = 16_000_000  # numbers of all slices, up to which none is computed twice


@dataclasses.dataclass(frozen=True)
class Slice:
    """Nodes that are computed together: utterances `index`, frames `begin` to `end`,
    and as many labels as the longest of them has."""

    index: list[int]
    begin: int
    end: int
    num_labels: int

    def __len__(self):
        """Nodes, padding included."""
        return len(self.index) * (self.end - self.begin) * (self.num_labels + 1)


def plan_slices(num_frames, num_labels, width: int, max_logits: int) -> list[Slice]:
    """Which nodes are computed together: like utterances, the longest first.

    Args:
        num_frames, num_labels: of each utterance.
        width: numbers at a node.
        max_logits: of a slice, padding included; an utterance that has more is cut, and
            a frame that has more is a slice of its own.

    Returns:
        Slices that hold every node once.
    """
    order = sorted(range(len(num_frames)), key=lambda b: (-num_frames[b], b))
    slices: list[Slice] = []
    for b in order:
        T, U = num_frames[b], num_labels[b]
        last = slices[-1] if slices else None
        if last is not None and last.begin == 0:
            joined = Slice([*last.index, b], 0, last.end, max(last.num_labels, U))
            if len(joined) * width <= max_logits:
                slices[-1] = joined
                continue
        step = max(1, max_logits // ((U + 1) * width))
        slices += [Slice([b], t, min(t + step, T), U) for t in range(0, T, step)]
    return slices


class _Nodes:
    """The joint network at the nodes of a slice.

    Args:
        e_BTJ, d_BUJ: the joint's projections of encoder and decoder output.
    """

    def __init__(self, joint, labels_BU, blank: int, part: Slice, e_BTJ, d_BUJ):
        first = part.index[0]
        # A view, where it can be one.
        is_run = part.index == [*range(first, first + len(part.index))]
        rows = slice(first, first + len(part.index)) if is_run else part.index
        e = e_BTJ[rows, part.begin : part.end].unsqueeze(2)
        d = d_BUJ[rows, : part.num_labels + 1].unsqueeze(1)
        self.part, self.rows, self.blank, self.out = part, rows, blank, joint.lin_out
        with torch.enable_grad():
            self.z = (e + d).detach().requires_grad_()  # (B', T', U' + 1, J)
            self.x = joint.joint_activation(self.z)
        logits = F.linear(self.x.detach(), self.out.weight, self.out.bias)
        self.logp = logits.float().log_softmax(-1)
        # Behind the last label nothing is read: any id will do.
        labels = F.pad(labels_BU[rows, : part.num_labels].long(), (0, 1), value=blank)
        self.labels = labels[:, None, :, None].expand(-1, part.end - part.begin, -1, 1)

    def of_two(self):
        """Log-probabilities of the blank and of the next label, (B', T', U' + 1, 2)."""
        label = self.logp.gather(-1, self.labels)
        return torch.cat([self.logp[..., self.blank, None], label], -1)

    def gradients(self, grad_two):
        """Of the loss, from that by `of_two`.

        Returns:
            By z, and by weight and bias of the joint's last layer.
        """
        grad = self.logp.exp_().mul_(-grad_two.sum(-1, keepdim=True))
        grad[..., self.blank] += grad_two[..., 0]
        grad.scatter_add_(-1, self.labels, grad_two[..., 1, None])
        weight = self.out.weight
        grad = grad.to(weight.dtype)
        by_z = torch.autograd.grad(self.x, self.z, grad @ weight)[0]
        rows = grad.flatten(0, 2)
        return by_z, rows.T @ self.x.detach().flatten(0, 2), rows.sum(0)


class _SlicedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, nodes, slices, lengths, needs_grad, e_BTJ, d_BUJ, weight, bias):
        inputs = e_BTJ, d_BUJ, weight, bias
        width = 2 * weight.shape[1] + weight.shape[0]  # z, x, logits
        keeps = needs_grad and sum(map(len, slices)) * width <= MAX_KEPT
        kept = []
        shape = *e_BTJ.shape[:2], d_BUJ.shape[1], 2
        logp = e_BTJ.new_zeros(shape, dtype=torch.float32)
        for part in slices:
            found = nodes(part, e_BTJ, d_BUJ)
            frames, labels = slice(part.begin, part.end), slice(part.num_labels + 1)
            logp[found.rows, frames, labels] = found.of_two()
            kept += [found] if keeps else []
            del found
        with torch.set_grad_enabled(needs_grad):
            loss = lattice_loss(logp.requires_grad_(needs_grad), *lengths).sum()
        if not needs_grad:
            return loss
        grad_logp = torch.autograd.grad(loss, logp)[0]
        grads = [
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
            for x in inputs
            if x is not None
        ]
        for i, part in enumerate(slices):
            found = kept[i] if keeps else nodes(part, e_BTJ, d_BUJ)
            frames, labels = slice(part.begin, part.end), slice(part.num_labels + 1)
            by_z, by_weight, by_bias = found.gradients(
                grad_logp[found.rows, frames, labels]
            )
            grads[0][found.rows, frames] += by_z.sum(2)
            grads[1][found.rows, labels] += by_z.sum(1)
            grads[2] += by_weight
            if bias is not None:
                grads[3] += by_bias
            if keeps:
                kept[i] = None  # done with
            del found
        ctx.save_for_backward(*grads)
        ctx.dtypes = [x.dtype for x in inputs if x is not None]
        return loss.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_output):
        grads = [
            (grad * grad_output).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        ]
        return (None,) * 4 + (*grads, *[None] * (4 - len(grads)))


def can_slice(model: nn.Module) -> bool:
    """Whether an `ESPnetASRModel` has the loss of this module: no blanks of several
    frames, no FastEmit."""
    criterion = model.criterion_transducer
    return isinstance(criterion, RNNTLoss) and not getattr(
        criterion, "fastemit_lambda", 0
    )


def sliced_transducer_loss(
    joint: nn.Module,
    criterion,
    h_BTD: torch.Tensor,
    g_BUD: torch.Tensor,
    labels_BU: torch.Tensor,
    num_frames_B: torch.Tensor,
    num_labels_B: torch.Tensor,
    max_logits: int | None = None,
) -> torch.Tensor:
    """Joint network and transducer loss, a slice of the nodes at a time.

    Args:
        joint: ESPnet's `JointNetwork`.
        criterion: `warprnnt_pytorch.RNNTLoss` with reduction `mean`, of which the blank
            is taken.
        h_BTD: encoder output.
        g_BUD: decoder output for the blank and all labels, (B, U + 1, D).
        labels_BU: without blanks, padded, int32.
        num_frames_B, num_labels_B: int32.
        max_logits: numbers of a slice, at the widest place (default: by device).

    Returns:
        The loss, mean over the batch, as the plain computation gives it
        without autocast.
    """
    dtype, device = joint.lin_out.weight.dtype, h_BTD.device
    if max_logits is None:
        max_logits = MAX_LOGITS.get(device.type, MAX_LOGITS_ELSEWHERE)
    # Around the gradients too: autocast reaches the products that these are made of.
    with torch.autocast(device.type, enabled=False):
        e_BTJ = joint.lin_enc(h_BTD.to(dtype))
        d_BUJ = joint.lin_dec(g_BUD.to(dtype))
        width = max(joint.lin_out.weight.shape)
        slices = plan_slices(
            num_frames_B.tolist(), num_labels_B.tolist(), width, max_logits
        )
        loss = _SlicedLoss.apply(
            functools.partial(_Nodes, joint, labels_BU, criterion.blank),
            slices,
            (num_frames_B.int(), num_labels_B.int()),
            torch.is_grad_enabled(),
            e_BTJ,
            d_BUJ,
            joint.lin_out.weight,
            joint.lin_out.bias,
        )
        return loss / len(h_BTD)
