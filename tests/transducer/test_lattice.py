"""The lattice's loss against a plain loop in fp64."""

import pytest
import torch

from espnet_mtkd.transducer.lattice import lattice_loss


def plain_loop(logp, num_frames, num_labels):
    """Equations 16 to 18 of arXiv 1211.3711, node by node."""
    losses = []
    for b, (T, U) in enumerate(zip(num_frames, num_labels, strict=True)):
        blank, label = logp[b, ..., 0], logp[b, ..., 1]
        alpha = {(0, 0): logp.new_zeros(())}
        for t in range(T):
            for u in range(U + 1):
                into = []
                if t:
                    into.append(alpha[t - 1, u] + blank[t - 1, u])
                if u:
                    into.append(alpha[t, u - 1] + label[t, u - 1])
                if into:
                    alpha[t, u] = torch.stack(into).logsumexp(0)
        losses.append(-alpha[T - 1, U] - blank[T - 1, U])
    return torch.stack(losses)


@pytest.mark.parametrize(("scale", "error"), [(1.0, 1e-5), (12.0, 5e-4)])
def test_value_and_gradient_are_those_of_fp64(scale, error):
    """At the larger scale losses are above 1000, of which fp32 knows four digits."""
    torch.manual_seed(0)
    frames, labels = [70, 50, 1, 64], [16, 12, 3, 0]
    logits = scale * torch.randn(4, 70, 17, 30, dtype=torch.double)
    logp = logits.log_softmax(-1)[..., :2].clone().requires_grad_()
    expected = plain_loop(logp, frames, labels)
    weights = torch.tensor([1.0, 0.3, 2.0, 1.0])
    (grad,) = torch.autograd.grad((weights * expected).sum(), logp)
    logp = logp.detach().float().requires_grad_()
    lengths = [torch.tensor(x, dtype=torch.int32) for x in (frames, labels)]
    found = lattice_loss(logp, *lengths)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-3)
    (found,) = torch.autograd.grad((weights * found).sum(), logp)
    assert float((found - grad).norm() / grad.norm()) < error


def test_no_label_and_one_frame():
    logp = torch.tensor([[[[-1.0, -9.0]]]])
    one, none = (torch.tensor([n], dtype=torch.int32) for n in (1, 0))
    assert lattice_loss(logp, one, none).tolist() == [1.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_stands_behind_an_utterance_counts_for_nothing(value):
    torch.manual_seed(0)
    T, U = torch.tensor([6, 4], dtype=torch.int32), torch.tensor([3, 2]).int()
    clean = torch.randn(2, 6, 4, 2).log_softmax(-1)
    logp = clean.clone()
    logp[1, 4:] = logp[1, :, 3:] = value
    logp.requires_grad_()
    found = lattice_loss(logp, T, U)
    torch.testing.assert_close(found, lattice_loss(clean, T, U))
    (gradient,) = torch.autograd.grad(found.sum(), logp)
    assert gradient[0].isfinite().all() and gradient[1, :4, :3].isfinite().all()
