"""The masked loss against a plain Python loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.losses import CodebookLoss, EmbeddingLoss


def by_loop(predicted, target, lengths, weights):
    """The loss in plain Python floats, frame by frame."""
    l1 = mse = cosine = 0.0
    num_frames = 0
    for b, length in enumerate(lengths):
        for t in range(length):
            num_frames += 1
            R, E = predicted.shape[2:]
            for r in range(R):
                p = predicted[b, t, r].tolist()
                q = target[b, t, r].tolist()
                l1 += sum(abs(x - y) for x, y in zip(p, q, strict=True)) / E / R
                mse += sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) / E / R
                dot = sum(x * y for x, y in zip(p, q, strict=True))
                norm = math.hypot(*p) * math.hypot(*q)
                cosine += dot / norm / R
    n = max(num_frames, 1)
    l1, mse, cosine = l1 / n, mse / n, cosine / n
    distance = 1 - cosine if num_frames else 0.0
    return (
        weights["l1"] * l1 + weights["mse"] * mse + weights["cosine"] * distance,
        dict(l1=l1, mse=mse, cosine=cosine),
    )


def averaged(loss, predicted, target, lengths):
    """Loss and parts over all valid frames, from those of each utterance."""
    lengths = torch.as_tensor(lengths)
    loss_B, parts = loss(predicted, target, lengths)
    assert loss_B.shape == (len(lengths),)
    num_frames = max(1, int(lengths.sum()))
    return loss_B.sum() / num_frames, {
        name: value_B.sum() / num_frames for name, value_B in parts.items()
    }


def random_batch(lengths, R=2, E=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths) + 2, R, E)
    predicted = torch.randn(shape, generator=generator)
    target = torch.randn(shape, generator=generator)
    return predicted, target


@given(
    st.lists(st.integers(0, 7), min_size=1, max_size=4),
    st.integers(1, 4),
    st.fixed_dictionaries({k: st.floats(0.1, 3) for k in ("l1", "mse", "cosine")}),
    st.integers(0, 1000),
)
def test_masked_loss_is_the_loops(lengths, R, weights, seed):
    predicted, target = random_batch(lengths, R, seed=seed)
    loss, parts = averaged(
        EmbeddingLoss(**weights), predicted, target, torch.tensor(lengths)
    )
    expected, expected_parts = by_loop(predicted, target, lengths, weights)
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for name, value in expected_parts.items():
        assert parts[name].item() == pytest.approx(value, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("rubbish", [math.inf, -math.inf, math.nan, 1e38])
def test_what_lies_behind_an_utterance_reaches_neither_loss_nor_gradient(rubbish):
    lengths = torch.tensor([3, 1, 0])
    predicted, target = random_batch(lengths.tolist())
    loss_fn = EmbeddingLoss(l1=1.0, mse=0.5, cosine=1.0)

    def run(target):
        p = predicted.clone().requires_grad_()
        loss, _ = averaged(loss_fn, p, target, lengths)
        loss.backward()
        return loss.detach(), p.grad

    dirty = target.clone()
    for b, length in enumerate(lengths):
        dirty[b, length:] = rubbish
    for clean_value, dirty_value in zip(run(target), run(dirty), strict=True):
        assert torch.equal(clean_value, dirty_value)
    gradient = run(dirty)[1]
    for b, length in enumerate(lengths):
        assert (gradient[b, length:] == 0).all()
        assert (gradient[b, :length] != 0).any() or length == 0


def test_no_valid_frame_gives_zero_and_zero_gradient():
    predicted, target = random_batch([0, 0])
    predicted.requires_grad_()
    loss, _ = averaged(EmbeddingLoss(), predicted, target, torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0.0
    assert (predicted.grad == 0).all()


def test_half_precision_input_is_computed_in_fp32():
    predicted, target = random_batch([4, 2])
    lengths = torch.tensor([4, 2])
    loss, _ = averaged(EmbeddingLoss(), predicted.half(), target.half(), lengths)
    expected, _ = averaged(
        EmbeddingLoss(), predicted.half().float(), target.half().float(), lengths
    )
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize(
    "weights",
    [
        *(dict(l1=0, mse=0, cosine=0), dict(l1=-1), dict(mse=-0.1), dict(cosine=-1)),
        *(dict(l1=float("nan")), dict(mse=float("inf")), dict(cosine=float("nan"))),
        *(dict(l1="1"), dict(l1=None)),
    ],
)
def test_weights_that_train_nothing_or_backwards_are_refused(weights):
    with pytest.raises(ConfigError, match="weights >= 0"):
        EmbeddingLoss(**weights)


def test_weights_are_printed():
    assert "cosine=0.5" in str(EmbeddingLoss(cosine=0.5))


def test_codebook_loss_is_the_mean_of_each_codebooks_cross_entropy():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 2, 4 * 256, requires_grad=True)
    codes = torch.randint(256, (2, 3, 2, 4), dtype=torch.uint8)
    lengths = torch.tensor([3, 1])
    loss, parts = averaged(CodebookLoss(), logits, codes, lengths)
    terms, hits = [], []
    for b in range(2):
        for t in range(int(lengths[b])):
            for r in range(2):
                for m in range(4):
                    scores = logits[b, t, r, 256 * m : 256 * (m + 1)].detach()
                    code = int(codes[b, t, r, m])
                    terms.append(scores.exp().sum().log() - scores[code])
                    hits.append(float(scores.argmax() == code))
    assert loss.item() == pytest.approx(float(sum(terms) / len(terms)), rel=1e-5)
    assert float(parts["accuracy"]) == pytest.approx(sum(hits) / len(hits))
    loss.backward()
    assert not logits.grad[1, 1:].any() and logits.grad[1, 0].any()


def test_codebook_loss_without_a_valid_frame_is_zero():
    logits = torch.randn(1, 2, 2, 512, requires_grad=True)
    codes = torch.zeros(1, 2, 2, 2, dtype=torch.uint8)
    loss, _ = averaged(CodebookLoss(), logits, codes, torch.tensor([0]))
    loss.backward()
    assert loss.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("kept", ["l1", "mse", "cosine"])
def test_a_part_without_a_weight_is_not_computed(kept):
    """But for the cosine, which is reported; then it has no gradient."""
    lengths = [5, 3]
    predicted, target = random_batch(lengths)
    weights = {**dict(l1=0.0, mse=0.0, cosine=0.0), kept: 2.0}
    predicted.requires_grad_()
    loss, parts = averaged(
        EmbeddingLoss(**weights), predicted, target, torch.tensor(lengths)
    )
    expected, expected_parts = by_loop(predicted, target, lengths, weights)
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert parts.keys() == {kept, "cosine"}
    for name, value in parts.items():
        assert value.item() == pytest.approx(expected_parts[name], rel=1e-4)
    loss.backward()
    assert bool(predicted.grad.any())


def test_losses_of_utterances_are_those_of_each_alone():
    lengths = [5, 0, 3]
    predicted, target = random_batch(lengths)
    target[1] = float("nan")
    loss_B, parts = EmbeddingLoss(mse=0.5)(predicted, target, torch.tensor(lengths))
    codes = torch.randint(256, (3, 7, 2, 4), dtype=torch.uint8)
    logits = torch.randn(3, 7, 2, 4 * 256)
    codes_B, hits = CodebookLoss()(logits, codes, torch.tensor(lengths))
    for b, length in enumerate(lengths):
        one = slice(b, b + 1)
        weights = dict(l1=1.0, mse=0.5, cosine=1.0)
        expected, cosine = by_loop(predicted[one], target[one], [length], weights)
        assert float(loss_B[b]) == pytest.approx(expected * length, rel=1e-4)
        similarity = cosine["cosine"] * length
        assert float(parts["cosine"][b]) == pytest.approx(similarity, abs=1e-4)
        expected = averaged(CodebookLoss(), logits[one], codes[one], [length])
        assert float(codes_B[b]) == pytest.approx(float(expected[0]) * length, rel=1e-5)
        accuracy = float(expected[1]["accuracy"]) * length
        assert float(hits["accuracy"][b]) == pytest.approx(accuracy)
