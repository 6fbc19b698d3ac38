"""How losses of targets become one, against plain loops over utterances."""

import math

import pytest
import torch

from espnet_mtkd.objective.balance import (
    BALANCE_CLASSES,
    DECAY,
    DropBalance,
    FixedBalance,
    RunningBalance,
    UncertaintyBalance,
)

WEIGHTS = [1.0, 0.25, 0.5]
TEACHERS = ["a", "b", "b"]


def batch(seed, num_utts=4):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 9, (1, num_utts), generator=generator).float()
    frames = frames.repeat(3, 1) + 1
    sums = torch.rand(3, num_utts, generator=generator) * frames
    return sums * torch.tensor([[1.0], [10.0], [0.1]]), frames


def means(sums, frames):
    pairs = zip(sums, frames, strict=True)
    return [sum(s.tolist()) / sum(n.tolist()) for s, n in pairs]


def weighted(terms):
    return sum(w * x for w, x in zip(WEIGHTS, terms, strict=True)) / sum(WEIGHTS)


@pytest.mark.parametrize("name", BALANCE_CLASSES)
def test_while_validating_all_are_the_weighted_mean(name):
    balance = BALANCE_CLASSES[name](WEIGHTS, TEACHERS)
    balance(*batch(0))  # training
    balance.eval()
    state = {k: v.clone() for k, v in balance.state_dict().items()}
    sums, frames = batch(1)
    loss, _ = balance(sums, frames)
    assert loss.item() == pytest.approx(weighted(means(sums, frames)), rel=1e-5)
    for key, value in balance.state_dict().items():
        assert torch.equal(value, state[key])


def test_fixed_is_the_weighted_mean_while_training_too():
    balance = FixedBalance(WEIGHTS, TEACHERS)
    sums, frames = batch(1)
    loss, _ = balance(sums, frames)
    assert loss.item() == pytest.approx(weighted(means(sums, frames)), rel=1e-5)
    assert not balance.state_dict()


def test_running_divides_by_an_exponential_mean():
    balance = RunningBalance(WEIGHTS, TEACHERS)
    history = []
    for seed in range(5):
        sums, frames = batch(seed)
        sums.requires_grad_()
        loss, factors = balance(sums, frames)
        history.append(means(sums, frames))
        # The same mean, written as a weighted sum over all updates.
        powers = [DECAY ** (seed - i) for i in range(seed + 1)]
        mean = [
            sum(p * m[k] for p, m in zip(powers, history, strict=True)) / sum(powers)
            for k in range(3)
        ]
        ratios = [history[-1][k] / mean[k] for k in range(3)]
        assert loss.item() == pytest.approx(weighted(ratios), rel=1e-4)
        assert factors.tolist() == pytest.approx([1 / m for m in mean], rel=1e-4)
    (gradient,) = torch.autograd.grad(loss, sums)
    expected = WEIGHTS[1] / sum(WEIGHTS) / mean[1] / float(frames[1].sum())
    assert gradient[1].tolist() == pytest.approx([expected] * 4, rel=1e-4)


def test_running_goes_on_from_its_state():
    straight, first = (RunningBalance(WEIGHTS, TEACHERS) for _ in range(2))
    for seed in range(4):
        expected, _ = straight(*batch(seed))
        if seed == 2:
            resumed = RunningBalance(WEIGHTS, TEACHERS)
            resumed.load_state_dict(first.state_dict())
            first = resumed
        found, _ = first(*batch(seed))
        assert torch.equal(found, expected)


def test_a_batch_without_frames_or_with_nan_leaves_the_running_mean():
    balance = RunningBalance(WEIGHTS, TEACHERS)
    balance(*batch(0))
    before = {k: v.clone() for k, v in balance.state_dict().items()}
    sums, frames = batch(1)
    sums[0, 1] = math.nan
    frames[1], sums[1] = 0, 0
    sums[2, 0] = math.inf
    balance(sums, frames)
    for key, value in balance.state_dict().items():
        assert torch.equal(value, before[key])


def test_learnt_scales_come_to_the_losses_themselves():
    """Of constant losses: exp(-s) = 1 / L is where the gradient is 0."""
    balance = UncertaintyBalance(WEIGHTS, TEACHERS)
    sums, frames = batch(3)
    expected = means(sums, frames)
    loss, _ = balance(sums, frames)
    assert loss.item() == pytest.approx(weighted(expected), rel=1e-5)  # s = 0
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        balance(sums, frames)[0].backward()
        optimizer.step()
    loss, factors = balance(sums, frames)
    assert factors.tolist() == pytest.approx([1 / m for m in expected], rel=1e-2)
    least = weighted([1 + math.log(m) for m in expected])
    assert loss.item() == pytest.approx(least, rel=1e-3)


def test_dropping_keeps_the_furthest_teacher_of_each_utterance():
    balance = DropBalance(WEIGHTS, TEACHERS)
    num_utts = 2000
    sums, frames = batch(5, num_utts)
    sums[0] *= 4  # so that either teacher is the furthest in some
    torch.manual_seed(0)
    draws = torch.rand(2, num_utts) >= 0.5  # what the class draws with this seed
    torch.manual_seed(0)
    loss, kept = balance(sums, frames)
    top = bottom = 0.0
    furthest, num_kept = [0, 0], [0, 0, 0]
    for b in range(num_utts):
        each = [sums[k, b].item() / frames[k, b].item() for k in range(3)]
        of_b = (0.25 * each[1] + 0.5 * each[2]) / 0.75
        best = 0 if each[0] >= of_b else 1
        furthest[best] += 1
        for k, teacher in enumerate((0, 1, 1)):
            if teacher == best or draws[teacher, b]:
                num_kept[k] += 1
                top += WEIGHTS[k] * sums[k, b].item()
                bottom += WEIGHTS[k] * frames[k, b].item()
    assert min(furthest) > 100
    assert loss.item() == pytest.approx(top / bottom, rel=1e-4)
    assert kept.tolist() == pytest.approx([n / num_utts for n in num_kept])
    expected = furthest[0] + furthest[1] / 2  # of those it may drop, half
    assert num_kept[0] == pytest.approx(expected, rel=0.1)


def test_of_one_teacher_nothing_is_dropped():
    sums, frames = batch(2)
    balance = DropBalance(WEIGHTS, ["a", "a", "a"])
    loss, kept = balance(sums, frames)
    assert kept.tolist() == [1, 1, 1]
    assert loss.item() == pytest.approx(weighted(means(sums, frames)), rel=1e-5)
