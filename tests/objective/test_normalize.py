"""Standardisation against numpy over the same frames."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from espnet_mtkd.errors import NonFiniteError
from espnet_mtkd.objective.normalize import (
    MIN_STD,
    FrameNorm,
    Standardizer,
    find_outliers,
)
from espnet_mtkd.objective.sample import MAX_FRAMES

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


def with_artefacts(num_frames=4000, dim=32, share=0.02, seed=0):
    """(N, E) normal frames of unlike scales, some of them a hundred times as large."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 10, dim)
    x = rng.standard_normal((num_frames, dim)) * scale + rng.uniform(-50, 50, dim)
    is_artefact = rng.random(num_frames) < share
    x[is_artefact, :3] += 100 * scale[:3] * rng.choice([-1, 1], (is_artefact.sum(), 3))
    return torch.from_numpy(x.astype(np.float32)), torch.from_numpy(is_artefact)


def test_a_few_huge_frames_move_neither_mean_nor_deviation():
    x, is_artefact = with_artefacts()
    standardizer = Standardizer(x.size(1))
    standardizer.observe(x[None], torch.tensor([len(x)]))
    standardizer.fit()
    ordinary = x[~is_artefact].double().numpy()
    np.testing.assert_allclose(standardizer.mean, ordinary.mean(0), rtol=1e-4)
    np.testing.assert_allclose(standardizer.std, ordinary.std(0), rtol=1e-4)
    assert torch.equal(find_outliers(x), is_artefact)
    assert standardizer.num_outliers == int(is_artefact.sum())
    z = (x.double() - x.double().mean(0)) / x.double().std(0, unbiased=False)
    energy = z.square().sum(1)
    share = float(energy[is_artefact].sum() / energy.sum())
    assert share > 0.08  # they are no small part
    assert standardizer.outlier_energy == pytest.approx(share, rel=1e-3)
    assert f"{share:.0%} of the squared energy" in standardizer.describe_tails()


def test_frames_of_one_kind_are_no_outliers():
    rng = np.random.default_rng(1)
    for x in (
        rng.standard_normal((3000, 64)),
        np.maximum(0, rng.standard_normal((3000, 64)) - 1),  # mostly zeros
        np.ones((50, 4)),
    ):
        assert not find_outliers(torch.from_numpy(x).float()).any()


def test_of_a_long_sample_frames_at_even_distances_are_kept():
    standardizer = Standardizer(1)
    lengths = [700, 1, 5000, 3000, 9000, 2999]
    x = torch.arange(sum(lengths), dtype=torch.float32)[:, None]
    for part in x.split(lengths):
        standardizer.observe(part[None], torch.tensor([len(part)]))
    standardizer.fit()
    kept = np.arange(0, sum(lengths), 4, dtype=np.float64)
    assert len(kept) <= MAX_FRAMES < 2 * len(kept)
    assert int(standardizer.num_frames) == len(kept)
    assert float(standardizer.mean) == pytest.approx(kept.mean())
    assert float(standardizer.std) == pytest.approx(kept.std(), rel=1e-5)


def test_plain_statistics_are_those_of_all_frames_and_robust_ones_are_not():
    x, _ = with_artefacts()
    plain, robust = Standardizer(x.size(1), robust=False), Standardizer(x.size(1))
    for standardizer in (plain, robust):
        standardizer.observe(x[None], torch.tensor([len(x)]))
        standardizer.fit()
    frames = x.double().numpy()
    np.testing.assert_allclose(plain.mean, frames.mean(0), rtol=1e-4)
    np.testing.assert_allclose(plain.std, frames.std(0), rtol=1e-4)
    assert float(plain.std[0]) > 5 * float(robust.std[0])
    assert plain.num_outliers == robust.num_outliers > 0


def test_layer_norm_is_each_frame_by_itself_and_none_changes_nothing():
    x = np.random.default_rng(0).normal(3, 7, (2, 5, 16))
    target = torch.from_numpy(x).half()
    x = target.float().numpy()
    expected = (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)
    found = FrameNorm(normalize=True)(target)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert torch.equal(FrameNorm(normalize=False)(target), target.float())
    assert FrameNorm(normalize=True).is_fitted
    assert not FrameNorm(normalize=True).state_dict()


@pytest.mark.parametrize("robust", [True, False])
def test_values_beyond_the_clip_are_cut_to_it(robust):
    x, _ = with_artefacts()
    free = Standardizer(x.size(1), robust)
    cut = Standardizer(x.size(1), robust, clip=2.5)
    free.observe(x[None], torch.tensor([len(x)]))
    free.fit()
    cut.load_state_dict(free.state_dict())
    assert free(x).abs().max() > 5
    np.testing.assert_array_equal(cut(x), np.clip(free(x), -2.5, 2.5))
    assert FrameNorm(False, clip=0.5)(x).abs().max() == 0.5


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sample_that_is_not_finite_is_refused_by_name(value):
    x = torch.randn(1, 50, DIM)
    x[0, 7, 2] = value
    standardizer = Standardizer(DIM)
    standardizer.observe(x, torch.tensor([50]))
    with pytest.raises(NonFiniteError, match="'whisper_l3' holds values that are not"):
        standardizer.fit("whisper_l3")
