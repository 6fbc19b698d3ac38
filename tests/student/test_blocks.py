"""What a student's blocks give, against the encoder's own output."""

import builders
import pytest
import torch

from espnet_mtkd.student.blocks import BlockOutputs
from espnet_mtkd.student.build import build_student

ENCODERS = list(builders.ENCODERS)
NUM_BLOCKS = 3
# Of the encoder, 25 a second: fewer than a chunk has, as many, and chunks of which the
# last is full or not.
FRAMES = [5, 11, 12, 13, 16, 17, 19, 20, 40, 41, 43]


def build(encoder, **changes):
    torch.manual_seed(0)
    conf = dict(builders.ENCODERS[encoder], num_blocks=NUM_BLOCKS, **changes)
    return build_student(builders.student_args(encoder, encoder_conf=conf))[-1]


def features(num_frames):
    """Two padded utterances that give so many frames."""
    torch.manual_seed(num_frames)
    num = 4 * num_frames + 3
    return torch.randn(2, num, 80), torch.tensor([num, max(7, num // 2)])


@pytest.mark.parametrize("num_frames", FRAMES)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("training", [True, False])
def test_the_last_blocks_output_normed_is_the_encoders(encoder, num_frames, training):
    module = build(encoder).train(training)
    feats, lengths = features(num_frames)
    expected, expected_lengths, _ = module(feats, lengths)
    with BlockOutputs(module, [1, 2, 3]) as blocks:
        found, found_lengths, _ = module(feats, lengths)
    assert found.size(1) == num_frames
    outputs = blocks.frames(num_frames)
    assert [x.shape for x in outputs] == [found.shape] * 3
    assert torch.equal(module.after_norm(outputs[-1]), found)
    assert not torch.equal(outputs[0], outputs[1])
    # And it is what it was without listening, which leaves nothing behind.
    assert torch.equal(found_lengths, expected_lengths)
    assert not training or torch.allclose(found, expected, atol=1e-5)
    assert training or torch.equal(found, expected)
    assert all(not block._forward_hooks for block in module.encoders)


@pytest.mark.parametrize("num_frames", [9, 30])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_block_is_that_of_an_encoder_which_ends_there(encoder, num_frames):
    module = build(encoder).eval()
    feats, lengths = features(num_frames)
    with BlockOutputs(module, [2]) as blocks:
        h_BTD, _, _ = module(feats, lengths)
    (second,) = blocks.frames(num_frames)
    torch.manual_seed(0)
    conf = dict(builders.ENCODERS[encoder], num_blocks=2)
    shorter = build_student(builders.student_args(encoder, encoder_conf=conf))[-1]
    shorter.load_state_dict(
        {k: v for k, v in module.state_dict().items() if ".2." not in k or "embed" in k}
    )
    expected, _, _ = shorter.eval()(feats, lengths)
    assert torch.allclose(module.after_norm(second), expected, atol=1e-6)


@pytest.mark.parametrize("num_frames", [9, 30])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradients_reach_the_blocks_below_and_no_other(encoder, num_frames):
    module = build(encoder)
    feats, lengths = features(num_frames)
    with BlockOutputs(module, [2]) as blocks:
        module(feats, lengths)
    blocks.frames(num_frames)[0].square().sum().backward()
    for name, parameter in module.named_parameters():
        below = not name.startswith(("encoders.2.", "after_norm."))
        assert (parameter.grad is not None) == below, name


def test_intermediate_ctc_beside_it():
    module = build("conformer", interctc_layer_idx=[1]).eval()
    feats, lengths = features(20)
    with BlockOutputs(module, [1]) as blocks:
        (_, intermediate), _, _ = module(feats, lengths)
    (first,) = blocks.frames(20)
    assert torch.equal(module.after_norm(first), intermediate[0][1])


def test_listening_ends_where_the_encoder_fails():
    module = build("conformer")
    with pytest.raises(RuntimeError), BlockOutputs(module, [1]):
        module(torch.randn(1, 50, 7), torch.tensor([50]))
    assert not module.encoders[0]._forward_hooks
