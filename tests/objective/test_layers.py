"""Means of a teacher's layers, against numpy."""

import numpy as np
import pytest
import torch

from espnet_mtkd.objective.layers import EQUAL_SHARE, LayerMean
from espnet_mtkd.objective.normalize import FrameNorm, Standardizer

LENGTHS = torch.tensor([50, 30])
DIM = 6


def layers(num=3, seed=0):
    """(2, 50, E) each: the first two alike, the others of their own; NaN behind."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num, 2, 50, DIM)) * 5 + 2
    x[1] = x[0] + 0.3 * x[1]
    x[:, 1, 30:] = np.nan
    return list(torch.from_numpy(x.astype(np.float32)))


def fitted(parts, is_learnt):
    standardizers = [Standardizer(DIM) for _ in parts]
    mean = LayerMean(len(parts), DIM, is_learnt)
    assert not mean.is_fitted
    for standardizer, x in zip(standardizers, parts, strict=True):
        standardizer.observe(x, LENGTHS)
    mean.observe(parts, LENGTHS)
    for standardizer in standardizers:
        standardizer.fit()
    mean.fit(standardizers)
    assert mean.is_fitted
    scaled = [s(x) for s, x in zip(standardizers, parts, strict=True)]
    return mean, scaled


def valid(x):
    x = x.detach()
    return np.concatenate([x[0].numpy(), x[1, :30].numpy()])


@pytest.mark.parametrize("is_learnt", [False, True])
def test_the_plain_mean_has_the_energy_of_its_layers(is_learnt):
    mean, scaled = fitted(layers(), is_learnt)
    found = valid(mean(scaled, LENGTHS))
    expected = sum(valid(x) for x in scaled) / 3
    assert np.square(expected).mean() < 0.9  # what a mean alone would lose
    expected /= np.sqrt(np.square(expected).mean())  # layers have an energy of 1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_learnt_shares_keep_a_part_for_each_layer_and_the_energy():
    mean, scaled = fitted(layers(), True)
    with torch.no_grad():
        mean.logits.copy_(torch.tensor([40.0, 0.0, 1.0]))
    share = mean.shares.detach().numpy()
    floor = EQUAL_SHARE / 3
    np.testing.assert_allclose(share, [1 - 2 * floor, floor, floor], rtol=1e-5)
    found = valid(mean(scaled, LENGTHS))
    expected = sum(a * valid(x) for a, x in zip(share, scaled, strict=True))
    expected /= np.sqrt(np.square(expected).mean())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_nothing_behind_an_utterance_reaches_the_shares():
    mean, scaled = fitted(layers(), True)
    out = mean(scaled, LENGTHS)
    assert not out[1, 30:].any()
    (out[0] ** 2).sum().backward()
    assert mean.logits.grad.isfinite().all() and mean.logits.grad.any()


def test_shrinking_the_target_does_not_lower_its_energy():
    """The gradient of the target's own energy is 0: there is nothing to gain by it."""
    mean, scaled = fitted(layers(), True)
    out = mean(scaled, LENGTHS)
    (out**2).sum().backward()
    energy = float((out**2).sum())
    assert mean.logits.grad.abs().max() < 1e-4 * energy


def test_it_travels_in_the_state_dict_and_a_plain_mean_has_no_parameter():
    mean, scaled = fitted(layers(), False)
    assert not list(mean.parameters())
    other = LayerMean(3, DIM, False)
    other.load_state_dict(mean.state_dict())
    assert other.is_fitted
    assert torch.equal(other(scaled, LENGTHS), mean(scaled, LENGTHS))


def test_layers_that_are_not_standardised_keep_their_mean_energy():
    parts = layers()
    mean = LayerMean(3, DIM, False)
    mean.observe(parts, LENGTHS)
    mean.fit([FrameNorm(False)] * 3)
    energies = [np.square(valid(x)).mean() for x in parts]
    found = np.square(valid(mean(parts, LENGTHS))).mean()
    assert found == pytest.approx(np.mean(energies), rel=1e-3)
