"""The loss in slices against the plain one: value and gradients."""

import pytest
import torch
from espnet2.asr_transducer.joint_network import JointNetwork
from hypothesis import given
from hypothesis import strategies as st
from warprnnt_pytorch import RNNTLoss

from espnet_mtkd.transducer.rnnt import plan_slices, sliced_transducer_loss

V = 11


def make_batch(seed: int, num_frames, num_labels):
    torch.manual_seed(seed)
    joint = JointNetwork(V, 6, 5, joint_space_size=7).double()
    B, T, U = len(num_frames), max(num_frames), max(num_labels)
    h = torch.randn(B, T, 6, dtype=torch.double, requires_grad=True)
    g = torch.randn(B, U + 1, 5, dtype=torch.double, requires_grad=True)
    labels = torch.randint(1, V, (B, U), dtype=torch.int32)
    frames = torch.tensor(num_frames, dtype=torch.int32)
    return joint, h, g, labels, frames, torch.tensor(num_labels, dtype=torch.int32)


def plain_loss(joint, h, g, labels, frames, num_labels):
    logits = joint(h.unsqueeze(2), g.unsqueeze(1))
    return RNNTLoss()(logits, labels, frames, num_labels)


@pytest.mark.parametrize("max_logits", [1, 600, 10**6])
@pytest.mark.parametrize("frozen", [False, True])
def test_value_and_gradients_are_the_plain_ones(max_logits, frozen):
    batch = make_batch(3, [9, 4, 12, 5], [3, 1, 5, 4])
    joint, h, g, *rest = batch
    joint.lin_out.requires_grad_(not frozen)
    wanted = [h, g, *(p for p in joint.parameters() if p.requires_grad)]
    expected = plain_loss(*batch)
    found = sliced_transducer_loss(joint, RNNTLoss(), h, g, *rest, max_logits)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5)
    # Scaled, as a loss is that is one of several.
    for x, y in zip(
        torch.autograd.grad(0.3 * found, wanted),
        torch.autograd.grad(0.3 * expected, wanted),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def relative_errors(found, expected):
    return [
        float((x.double() - y).norm() / y.norm())
        for x, y in zip(found, expected, strict=True)
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lowered", [False, True], ids=["fp32 inputs", "low inputs"])
def test_small_gradients_survive_mixed_precision(dtype, lowered):
    """With a scaler's factor, against fp64; the loss is small, as after a training."""
    joint, h, g, *rest = make_batch(5, [30, 28, 25, 20], [6, 5, 6, 4])
    wanted = [h, g, *joint.parameters()]
    optimizer = torch.optim.Adam(wanted, 0.1)
    for _ in range(300):
        optimizer.zero_grad()
        plain_loss(joint, h, g, *rest).backward()
        optimizer.step()
    if lowered:  # as an encoder gives them under autocast
        h, g = (x.detach().to(dtype).requires_grad_() for x in (h, g))
        wanted[:2] = h, g
    loss = plain_loss(joint, h.double(), g.double(), *rest)
    assert float(loss.detach()) < 0.05
    expected = [x.double() for x in torch.autograd.grad(loss, wanted)]

    joint, scale = joint.float(), 65536.0
    if not lowered:
        h, g = (x.detach().float().requires_grad_() for x in (h, g))
    wanted = [h, g, *joint.parameters()]
    errors = []
    for compute in (
        lambda: plain_loss(joint, h, g, *rest),
        lambda: sliced_transducer_loss(joint, RNNTLoss(), h, g, *rest, 2000),
    ):
        with torch.autocast("cpu", dtype=dtype):
            loss = compute()
        grads = torch.autograd.grad(scale * loss, wanted)
        assert [x.dtype for x in grads] == [x.dtype for x in wanted]
        errors.append(
            max(relative_errors([x.double() / scale for x in grads], expected))
        )
    plain, sliced = errors
    # No more than the gradients of inputs in low precision are rounded.
    assert sliced < 5e-3 < plain


def test_the_joint_network_keeps_its_gradients_for_others_under_autocast():
    """Path distillation evaluates it in the same forward pass."""
    joint, h, g, *rest = make_batch(6, [7, 6], [2, 3])
    joint, h, g = joint.float(), h.detach().float(), g.detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sliced_transducer_loss(joint, RNNTLoss(), h, g, *rest, 100)
        other = joint(h[:, 0], g[:, 0]).float().square().sum()
    of_both = torch.autograd.grad(loss + other, list(joint.parameters()))
    of_loss = torch.autograd.grad(
        plain_loss(joint, h, g, *rest), list(joint.parameters())
    )
    of_other = torch.autograd.grad(
        joint(h[:, 0], g[:, 0]).square().sum(), list(joint.parameters())
    )
    for both, x, y in zip(of_both, of_loss, of_other, strict=True):
        torch.testing.assert_close(both, x + y, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_validation_computes_the_loss_and_no_gradient(dtype, monkeypatch):
    joint, h, g, *rest = make_batch(4, [7, 6], [2, 3])
    expected = plain_loss(joint, h, g, *rest).detach().float()
    if dtype is not None:
        joint, h, g = joint.float(), h.float(), g.float()
    taken = []
    monkeypatch.setattr(torch.autograd, "grad", lambda *x, **_: taken.append(x))
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not None):
        found = sliced_transducer_loss(joint, RNNTLoss(), h, g, *rest, 100)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad and taken == []


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(0, 60)), min_size=1, max_size=20
    ),
    st.integers(1, 10**6),
)
def test_slices_hold_every_node_once_within_the_limit(sizes, max_logits):
    frames, labels = zip(*sizes, strict=True)
    found = {b: [] for b in range(len(sizes))}
    for part in plan_slices(frames, labels, V, max_logits):
        rows = len(part.index) * (part.end - part.begin)
        assert len(part) == rows * (part.num_labels + 1)
        assert len(part) * V <= max_logits or rows == 1
        for b in part.index:
            assert labels[b] <= part.num_labels
            found[b] += range(part.begin, min(part.end, frames[b]))
    assert found == {b: list(range(T)) for b, T in enumerate(frames)}
