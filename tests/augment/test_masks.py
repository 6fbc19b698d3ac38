"""Span masks: which frames, how many, and that nothing else changes."""

import math

import builders
import pytest
import torch

from espnet_mtkd.augment.masks import (
    MaskOptions,
    SpanMask,
    draw_spans,
    parse_mask_options,
    spread,
)
from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.losses import EmbeddingLoss
from espnet_mtkd.pretraining.model import ESPnetMTKDModel
from espnet_mtkd.student.build import build_student
from espnet_mtkd.teachers.base import parse_teachers
from espnet_mtkd.teachers.s3prl import TeacherPool


@pytest.mark.parametrize("length", [1, 2, 7, 30])
def test_spans_are_those_of_a_plain_loop(length):
    generator = torch.Generator().manual_seed(length)
    starts = torch.rand(5, 20 + length - 1, generator=generator) < 0.1
    expected = torch.zeros(5, 20, dtype=torch.bool)
    for row, begins in enumerate(starts):
        for begin in begins.nonzero()[:, 0].tolist():
            for position in range(begin, begin + length):
                if 0 <= position - (length - 1) < 20:
                    expected[row, position - (length - 1)] = True
    assert torch.equal(spread(starts, length), expected)


@pytest.mark.parametrize("prob, length", [(0.65, 10), (0.3, 5), (1.0, 1), (0.2, 50)])
def test_the_share_of_masked_frames_is_the_documented_one_everywhere(prob, length):
    torch.manual_seed(1)
    masked = draw_spans(20000, 30, prob, length, "cpu").double()
    expected = 1 - (1 - prob / length) ** length
    # Each position: 20000 independent draws; five standard deviations.
    tolerance = 5 * math.sqrt(expected * (1 - expected) / 20000) + 1e-12
    assert (masked.mean(0) - expected).abs().max() <= tolerance


def features(lengths, channels=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    feats = torch.randn(len(lengths), max(lengths), channels, generator=generator)
    return feats, torch.tensor(lengths)


def test_masked_frames_are_the_embedding_masked_channels_zero_the_rest_as_it_was():
    feats, lengths = features([200, 150])
    mask = SpanMask(12, MaskOptions(0.65, 10, 0.3, 2)).train()
    torch.nn.init.uniform_(mask.embedding, 5.0, 6.0)
    torch.manual_seed(3)
    out = mask(feats, lengths)
    torch.manual_seed(3)
    frames = draw_spans(2, 200, 0.65, 10, "cpu")
    channels = draw_spans(2, 12, 0.3, 2, "cpu")
    assert frames.any() and channels.any() and not channels.all()
    for b, t, f in torch.cartesian_prod(*(torch.arange(n) for n in feats.shape)):
        expected = mask.embedding[f] if frames[b, t] else feats[b, t, f]
        expected = 0.0 if channels[b, f] else expected
        if t >= lengths[b]:
            expected = feats[b, t, f]
        assert out[b, t, f] == expected
    mask.eval()
    assert mask(feats, lengths) is feats


def test_padding_changes_neither_masks_nor_the_embeddings_gradient():
    feats, lengths = features([40, 25])
    mask = SpanMask(12, MaskOptions(0.65, 10, 0.3, 2)).train()
    outputs, gradients = [], []
    for filler in (0.0, 1e6):
        feats[1, 25:] = filler
        torch.manual_seed(4)
        out = mask(feats, lengths)
        assert (out[1, 25:] == filler).all()
        (gradient,) = torch.autograd.grad(out.square().sum(), mask.embedding)
        outputs.append([out[0], out[1, :25]])
        gradients.append(gradient)
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))
    assert torch.equal(*gradients)


def test_nothing_is_built_where_nothing_is_masked():
    assert SpanMask.of(12, MaskOptions()) is None
    only_channels = SpanMask.of(12, MaskOptions(channel_prob=0.5))
    assert list(only_channels.parameters()) == []


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"time_porb": 0.5}, "unknown key 'time_porb', did you mean 'time_prob'?"),
        ({"time_prob": 1.5}, "time_prob: expected one number from 0 to 1, found 1.5"),
        ({"time_prob": True}, "mask_conf.time_prob: expected one number"),
        ({"time_prob": float("nan")}, "mask_conf.time_prob: expected one number"),
        ({"time_length": 2.5}, "time_length: expected one integer from 1 to 1000"),
        ({"channel_length": 0}, "channel_length: expected one integer from 1"),
        ({"channel_prob": "high"}, "channel_prob: .* found 'high'"),
        ([0.65], "mask_conf: expected a mapping, found"),
    ],
)
def test_values_that_mean_nothing_are_refused(conf, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        parse_mask_options(conf)


@pytest.mark.parametrize("encoder", list(builders.ENCODERS))
def test_the_student_learns_its_mask_on_all_frames_and_is_the_same_without_it(
    encoder, two_teachers
):
    """Teachers' frames under a mask count as the others do."""
    teachers = TeacherPool(parse_teachers(str(two_teachers)))

    def build(options):
        torch.manual_seed(0)
        parts = build_student(builders.student_args(encoder))
        return ESPnetMTKDModel(*parts, teachers, EmbeddingLoss(), masks=options)

    plain, masked = build(MaskOptions()), build(MaskOptions(0.65, 10, 0.3, 5))
    extra = set(masked.state_dict()) - set(plain.state_dict())
    assert extra == {"mask.embedding"}
    for key, value in plain.state_dict().items():
        assert torch.equal(value, masked.state_dict()[key])

    wave = torch.from_numpy(builders.speech_like(2.0, 1))[None]
    lengths = torch.tensor([wave.size(1)])
    losses, weights = {}, {}
    for name, model in (("plain", plain), ("masked", masked)):
        model.observe_targets(wave, lengths)
        for standardizer in model.objective.standardizers.values():
            standardizer.fit()
        model.eval()
        losses[name] = model(wave, lengths, utt_id=["a"])[0].item()
        model.train()
        loss, _, weights[name] = model(wave, lengths, utt_id=["a"])
        loss.backward()
    assert masked.mask.embedding.grad.abs().max() > 0
    assert weights["plain"] == weights["masked"]
    assert losses["plain"] == losses["masked"]
