"""PHI-S: what its rotation promises, for any number of dimensions."""

import numpy as np
import pytest
import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.rotation import (
    RotatingStandardizer,
    cosine_basis,
    hadamard,
    mix_equally,
)

HADAMARD = [1, 2, 4, 8, 12, 16, 20, 24, 48, 80, 96, 240, 384, 512, 768]
NONE = [3, 5, 6, 15, 18, 33]


def frames(dim, num=900, seed=0):
    """(N, E) correlated frames whose components differ a thousandfold; too few for
    outliers."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim)) * np.logspace(0, -3, dim)[:, None]
    x = rng.standard_normal((num, dim)) @ mixing + rng.uniform(-9, 9, dim)
    return torch.from_numpy(x.astype(np.float32))


def fitted(x_NE, **options):
    standardizer = RotatingStandardizer(x_NE.size(1), **options)
    standardizer.observe(x_NE[None], torch.tensor([len(x_NE)]))
    standardizer.fit()
    return standardizer


@pytest.mark.parametrize("dim", HADAMARD)
def test_hadamard_matrices_have_signs_and_are_orthogonal(dim):
    matrix = hadamard(dim).numpy()
    assert set(np.unique(matrix)) <= {-1, 1}
    np.testing.assert_array_equal(matrix @ matrix.T, dim * np.eye(dim))


@pytest.mark.parametrize("dim", NONE)
def test_where_there_is_none_the_variances_are_made_equal(dim):
    assert hadamard(dim) is None
    basis = cosine_basis(dim).numpy()
    np.testing.assert_allclose(basis @ basis.T, np.eye(dim), atol=1e-12)
    variance = torch.logspace(-4, 3, dim, dtype=torch.float64)
    found = mix_equally(variance).numpy()
    np.testing.assert_allclose(found @ found.T, np.eye(dim), atol=1e-12)
    diagonal = np.diag(found @ np.diag(variance) @ found.T)
    np.testing.assert_allclose(diagonal, variance.mean(), rtol=1e-9)


@pytest.mark.parametrize("dim", [2, 5, 12, 16, 30, 96])
def test_each_dimension_has_variance_1_and_distances_keep_their_proportions(dim):
    x = frames(dim)
    y = fitted(x)(x).double()
    np.testing.assert_allclose(y.mean(0), 0, atol=2e-3)
    np.testing.assert_allclose(y.var(0, unbiased=False), 1, rtol=1e-3)
    before, after = torch.pdist(x[:40].double()), torch.pdist(y[:40])
    ratio = before / after
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-3)
    phi = np.sqrt(np.linalg.eigvalsh(np.cov(x.double().T, bias=True)).mean())
    np.testing.assert_allclose(ratio, phi, rtol=1e-3)


def test_it_travels_in_the_state_dict_and_takes_no_frames_by_outliers():
    x = frames(16, num=4000)
    outliers = torch.arange(0, len(x), 50)
    spoilt = x.clone()
    spoilt[outliers] += 1e4
    fit = fitted(spoilt)
    other = RotatingStandardizer(16)
    assert not other.is_fitted
    other.load_state_dict(fit.state_dict())
    assert other.is_fitted and torch.equal(other(x[None]), fit(x[None]))
    rest = np.delete(np.arange(len(x)), outliers)
    variance = fit(x)[rest].var(0, unbiased=False)
    np.testing.assert_allclose(variance, 1, rtol=5e-2)
    assert fit.num_outliers >= len(outliers)
    assert fitted(spoilt, clip=3.0)(spoilt).abs().max() == 3.0


def test_a_constant_target_stays_finite():
    x = torch.ones(40, 8)
    assert fitted(x)(x).abs().max() == 0


def test_fewer_frames_than_dimensions_are_refused():
    standardizer = RotatingStandardizer(16)
    standardizer.observe(torch.randn(1, 15, 16), torch.tensor([15]))
    with pytest.raises(ConfigError, match="least 16 frames of target 'x_l1'.*found 15"):
        standardizer.fit("x_l1")
