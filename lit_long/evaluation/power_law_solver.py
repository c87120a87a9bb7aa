"""The arithmetic of the power-law fit: exact least squares for a given beta, and the search over beta."""

from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_BETAS = np.geomspace(0.02, 3.0, 300)
_REFINEMENTS = 4


def mean_power(spans: Floats, betas: Floats) -> Floats:
    """Mean of c^-beta over each range of positions, [betas, points].

    The sum over whole positions as an integral with half-integer limits (midpoint rule, error below 1e-4 from c = 16).
    """
    low, high = spans[:, 0][None], spans[:, 1][None]
    power = 1 - betas[:, None]
    power = np.where(np.abs(power) < 1e-9, 1e-9, power)
    a, b = low - 0.5, high + 0.5
    mean = (b**power - a**power) / (power * (b - a))
    single: Floats = np.where(low == high, high ** -betas[:, None], mean)
    return single


def _solve(basis: Floats, losses: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Weighted least squares of losses [R, K] on a basis [M, K] or [R, M, K] plus a constant that is at least 0.

    Returns (squared error, slope, constant), each [R, M].
    """
    W = weights.sum()
    x = basis if basis.ndim == 3 else basis[None]
    mx, my = (x * weights).sum(-1) / W, (losses * weights).sum(-1)[:, None] / W
    dx, dy = x - mx[..., None], losses[:, None] - my[..., None]
    slope = (weights * dx * dy).sum(-1) / (weights * dx * dx).sum(-1)
    gamma = my - slope * mx
    through_zero = (weights * x * losses[:, None]).sum(-1) / (weights * x * x).sum(-1)
    slope, gamma = np.where(gamma < 0, through_zero, slope), np.maximum(gamma, 0)
    error = (weights * (losses[:, None] - slope[..., None] * x - gamma[..., None]) ** 2).sum(-1)
    return error, slope, gamma


def fit_rows(spans: Floats, losses: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Best (beta, slope, gamma), each [R], of R curves [R, K]: a grid over beta, then finer ones around the best."""
    rows = np.arange(len(losses))
    best = np.empty(len(losses), dtype=np.intp)
    basis = mean_power(spans, _BETAS)
    for start in range(0, len(losses), 64):  # bounded memory: [64, 300, K]
        part = slice(start, start + 64)
        best[part] = _solve(basis, losses[part], weights)[0].argmin(axis=1)
    beta, width = _BETAS[best], np.log(_BETAS[1] / _BETAS[0])
    offsets = np.linspace(-1, 1, 41)
    slope, gamma = np.empty_like(beta), np.empty_like(beta)
    for _ in range(_REFINEMENTS):
        betas = np.clip(beta[:, None] * np.exp(width * offsets), _BETAS[0], _BETAS[-1])
        fine = mean_power(spans, betas.ravel()).reshape(*betas.shape, -1)
        error, slopes, gammas = _solve(fine, losses, weights)
        best = error.argmin(axis=1)
        beta, slope, gamma = betas[rows, best], slopes[rows, best], gammas[rows, best]
        width /= 20
    return beta, slope, gamma


def bca_interval(boot: Floats, jackknife: Floats, value: float) -> tuple[float, float]:
    """95 % interval: percentiles of ``boot`` corrected for bias and, by the jackknife, for skewness (Efron 1987)."""
    normal = NormalDist()
    below = (np.count_nonzero(boot < value) + 0.5 * np.count_nonzero(boot == value)) / len(boot)
    bias = normal.inv_cdf(float(np.clip(below, 1e-3, 1 - 1e-3)))
    skew = jackknife.mean() - jackknife
    spread = float((skew**2).sum()) ** 1.5
    acceleration = float((skew**3).sum()) / (6 * spread) if spread > 0 else 0.0
    ends = []
    for share in (0.025, 0.975):
        z = bias + normal.inv_cdf(share)
        ends.append(float(np.quantile(boot, normal.cdf(bias + z / (1 - acceleration * z)))))
    return ends[0], ends[1]
