"""PHI-S: one scale for all dimensions, after a rotation that makes them alike."""

import math

import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.objective.normalize import MIN_STD, Standardizer, clip


class RotatingStandardizer(Standardizer):
    """Unit variance in each dimension, and all distances keep their proportions.

    PHI-S of RADIO (arXiv 2410.01680, section 3): with the covariance U diag(l) U^T,

        y = H U^T (x - mean) / phi,   phi = sqrt(mean of l),

    where H is orthogonal with entries of one size. Each dimension of y is a sum of all
    principal components with equal weights, so that its variance is mean(l) / phi^2 =
    1. Per-dimension scales, which `Standardizer` has, raise the noise of dimensions
    with little variance to the height of the others; here |y - y'| = |x - x'| / phi.
    Outliers are left out of the statistics, which RADIO does not do.

    Args:
        dim: embedding dimension E.
        clip: values of y are cut to [-clip, clip]; 0 cuts none.

    Attributes:
        rotation: (E, E), H U^T.
        std: (E,), phi in each dimension.
    """

    def __init__(self, dim: int, clip: float = 0.0):
        super().__init__(dim, clip=clip)
        self.register_buffer("rotation", torch.eye(dim))

    def _set(self, x_NE, name: str) -> None:
        """See `Standardizer`.

        Raises:
            ConfigError: fewer frames than dimensions, which do not show the rotation.
        """
        num, dim = x_NE.shape
        if num < dim:
            raise ConfigError(
                f"objective_conf.standardize: phi-s: expected at least {dim} frames of "
                f"target '{name}', as many as it has dimensions, found {num}: more "
                "training audio, or standardize: robust"
            )
        self.mean.copy_(x_NE.mean(0))
        difference = x_NE - x_NE.mean(0)
        variances, components = torch.linalg.eigh(difference.T @ difference / num)
        self.rotation.copy_(mix_equally(variances.clamp(min=0)) @ components.T)
        self.std.fill_(float(variances.mean().clamp(min=MIN_STD**2).sqrt()))

    def forward(self, target_BTE):
        """(B, T, E) teacher embeddings -> the same, rotated and scaled, in fp32."""
        with torch.autocast(target_BTE.device.type, enabled=False):
            rotated = (target_BTE.float() - self.mean) @ self.rotation.T
        return clip(rotated / self.std, self.clip)


def mix_equally(variance_E):
    """Orthogonal Q with equal diagonal of Q diag(variance) Q^T.

    A Hadamard matrix, of which each entry has the size 1 / sqrt(E), does that for any
    variances. Where there is none (`hadamard`), the cosine transform comes near, and
    rotations in planes do the rest, each of which brings one dimension to the mean
    (Bendel and Mickey 1978, doi:10.1080/03610917808812068).

    Args:
        variance_E: (E,) of the components that are mixed, fp64.

    Returns:
        (E, E) in fp64.
    """
    dim = len(variance_E)
    matrix = hadamard(dim)
    if matrix is not None:
        return matrix / math.sqrt(dim)
    rotation = cosine_basis(dim)
    covariance = rotation * variance_E @ rotation.T
    mean = float(variance_E.mean())
    for _ in range(dim - 1):
        diagonal = covariance.diagonal() - mean
        i, j = int(diagonal.argmin()), int(diagonal.argmax())
        low, high = float(diagonal[i]), float(diagonal[j])
        if not low < 0 < high:
            break
        # (c, s) with c^2 low - 2 c s both + s^2 high = 0
        both = float(covariance[i, j])
        tangent = (both + math.sqrt(both**2 - low * high)) / high
        cosine = 1 / math.hypot(1, tangent)
        sine = cosine * tangent
        plane = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
        plane = plane.to(covariance)
        covariance[[i, j]] = plane @ covariance[[i, j]]
        covariance[:, [i, j]] = covariance[:, [i, j]] @ plane.T
        rotation[[i, j]] = plane @ rotation[[i, j]]
    return rotation


def cosine_basis(dim: int):
    """(E, E) in fp64: the orthonormal discrete cosine transform (DCT-II)."""
    n = torch.arange(dim, dtype=torch.float64)
    basis = torch.cos(math.pi / dim * (n + 0.5)[:, None] * n) * math.sqrt(2 / dim)
    basis[:, 0] /= math.sqrt(2)
    return basis


def hadamard(dim: int):
    """A Hadamard matrix of entries 1 and -1, where one is easily made.

    Sylvester's doubling of one of Paley's first kind, of size q + 1 for a prime q that
    is 3 modulo 4; so for 2^k, 96, 240, 384, 768, 1280, and most multiples of 4.

    Returns:
        (E, E) in fp64, or None.
    """
    half, doublings = dim, 0
    while True:
        if half == 1:
            matrix = torch.ones(1, 1, dtype=torch.float64)
            break
        if half % 4 == 0 and is_prime(half - 1):
            matrix = paley(half - 1)
            break
        if half % 2:
            return None
        half, doublings = half // 2, doublings + 1
    for _ in range(doublings):
        matrix = torch.cat(
            [torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)]
        )
    return matrix


def paley(q: int):
    """(q + 1, q + 1) Hadamard matrix, q a prime that is 3 modulo 4 (Paley 1933)."""
    number = torch.arange(q)
    character = -torch.ones(q, dtype=torch.float64)  # of the residue classes of q
    character[number.square() % q] = 1
    character[0] = 0
    skew = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = character[(number[:, None] - number) % q]
    return skew + torch.eye(q + 1, dtype=torch.float64)


def is_prime(n: int) -> bool:
    """By trial division."""
    return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))
