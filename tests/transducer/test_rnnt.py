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


def test_validation_needs_no_gradients():
    joint, h, g, *rest = make_batch(4, [7, 6], [2, 3])
    with torch.no_grad():
        found = sliced_transducer_loss(joint, RNNTLoss(), h, g, *rest, 100)
    expected = plain_loss(joint, h, g, *rest)
    torch.testing.assert_close(found.double(), expected.detach().double())


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.integers(0, 60)), min_size=1, max_size=20
    ),
    st.integers(1, 10**6),
)
def test_slices_hold_every_utterance_once_within_the_limit(sizes, max_logits):
    frames, labels = zip(*sizes, strict=True)
    slices = plan_slices(frames, labels, V, max_logits)
    assert sorted(b for s in slices for b in s) == list(range(len(sizes)))
    for s in slices:
        cells = max(frames[b] for b in s) * (max(labels[b] for b in s) + 1)
        assert len(s) == 1 or len(s) * cells * V <= max_logits
