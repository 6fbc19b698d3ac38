"""Standardisation against numpy over the same frames."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.objective.normalize import MIN_STD, Standardizer

DIM = 4


def observe(batches, seed=0, scale=(1.0, 100.0, 0.01, 5.0), offset=50.0):
    """A fitted standardizer, and all valid frames (frames, DIM) as numpy saw them."""
    rng = np.random.default_rng(seed)
    standardizer, frames = Standardizer(DIM), []
    for lengths in batches:
        x = rng.standard_normal((len(lengths), max(lengths) + 3, DIM)) * scale + offset
        x = torch.from_numpy(x.astype(np.float32))
        for b, length in enumerate(lengths):
            x[b, length:] = float("nan")
            frames.append(x[b, :length].numpy())
        standardizer.observe(x, torch.tensor(lengths))
    return standardizer, np.concatenate(frames)


batches = st.lists(
    st.lists(st.integers(0, 20), min_size=1, max_size=4), min_size=1, max_size=5
).filter(lambda x: sum(map(sum, x)) >= 2)


@given(batches, st.integers(0, 99))
def test_statistics_are_numpys_over_all_valid_frames_of_all_batches(batches, seed):
    standardizer, frames = observe(batches, seed)
    assert not standardizer.is_fitted
    standardizer.fit()
    assert standardizer.is_fitted
    assert int(standardizer.num_frames) == len(frames)
    frames = frames.astype(np.float64)
    np.testing.assert_allclose(standardizer.mean.numpy(), frames.mean(0), rtol=1e-5)
    expected = np.maximum(frames.std(0), MIN_STD)
    np.testing.assert_allclose(standardizer.std.numpy(), expected, rtol=1e-3)


def test_standardised_frames_have_mean_0_and_deviation_1():
    standardizer, frames = observe([[40, 30], [20]])
    standardizer.fit()
    out = standardizer(torch.from_numpy(frames)[None])[0].numpy()
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(out.std(0), 1, atol=1e-3)


def test_a_constant_dimension_stays_finite():
    standardizer = Standardizer(DIM)
    standardizer.observe(torch.ones(1, 9, DIM), torch.tensor([9]))
    standardizer.fit()
    assert standardizer(torch.ones(1, 2, DIM)).isfinite().all()
    assert standardizer(torch.ones(1, 2, DIM)).abs().max() == 0


def test_the_statistics_travel_in_the_state_dict():
    standardizer, frames = observe([[40, 30]])
    standardizer.fit()
    other = Standardizer(DIM)
    assert not other.is_fitted
    other.load_state_dict(standardizer.state_dict())
    assert other.is_fitted
    x = torch.from_numpy(frames)[None]
    assert torch.equal(other(x), standardizer(x))
    assert not torch.equal(other(x), Standardizer(DIM)(x))


@pytest.mark.parametrize("num_frames", [0, 1])
def test_fewer_than_two_frames_are_refused(num_frames):
    standardizer = Standardizer(DIM)
    if num_frames:
        standardizer.observe(torch.ones(1, 5, DIM), torch.tensor([num_frames]))
    with pytest.raises(ValueError, match=f"at least 2 frames, found {num_frames}"):
        standardizer.fit()
