"""Loss as a power law of context length: L(c) = (alpha / c)^beta + gamma, in nats per token (paper, Fig. 1).

gamma is the loss that no context takes away; beta says how fast the rest falls: doubling c leaves 2^-beta of it.

For a given beta the law is a straight line in c^-beta, so the fit is a search over beta alone with the exact weighted
least squares for (alpha^beta, gamma) at each (variable projection): no start values, no local minima, and a thousand
bootstrap refits at once. A point may stand for the mean over a range of positions; the line then goes through the mean
of c^-beta over that range, so wide buckets do not bend the result.

A fit through few documents is worthless though it looks smooth: simulated on the paper's 7B law, beta scatters by 0.14
with 8 documents, 0.06 with 32 and 0.01 with 512. So the intervals resample documents (BCa), and ``determined`` is false
where that of beta is wider than 0.3.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lit_long.errors import UserError
from lit_long.evaluation.power_law_solver import bca_interval, fit_rows, mean_power

Floats = npt.NDArray[np.float64]

_LEAST_POINTS = 4
_LEAST_CLUSTERS = 5
_WIDEST_BETA = 0.3


@dataclass(frozen=True)
class PowerLaw:
    """L(c) = (alpha / c)^beta + gamma, c in tokens, L in nats per token."""

    alpha: float
    beta: float
    gamma: float

    def __call__(self, context: npt.ArrayLike) -> Floats:
        """Loss at ``context`` tokens."""
        return (self.alpha / np.asarray(context, dtype=np.float64)) ** self.beta + self.gamma


@dataclass(frozen=True, kw_only=True)
class PowerLawFit:
    """A fitted law, how good it is, and how sure."""

    law: PowerLaw
    intervals: dict[str, tuple[float, float]] | None
    """95 % intervals of ``alpha``, ``beta`` and ``gamma`` over documents; ``None`` with fewer than five of them."""
    clusters: int
    """Documents (or windows) behind the intervals."""
    ranges: tuple[tuple[float, float], ...]
    """First and last position of each point."""
    losses: tuple[float, ...]
    errors: tuple[float, ...] | None
    """Standard error of each point within documents; ``None`` where every point weighs the same."""
    r2: float
    """Weighted share of the points' variance that the law explains."""
    rmse: float
    """Root mean square of the residuals, nats per token."""
    aicc: dict[str, float]
    """Corrected Akaike criterion (lower is better) of ``power``, ``log`` (a - b log c) and ``constant``."""

    @property
    def determined(self) -> bool:
        """Whether beta's 95 % interval is at most 0.3 wide."""
        return self.intervals is not None and self.intervals["beta"][1] - self.intervals["beta"][0] <= _WIDEST_BETA

    @property
    def best(self) -> str:
        """The form with the lowest AICc."""
        return min(self.aicc, key=self.aicc.__getitem__)


def fit_power_law(
    contexts: npt.ArrayLike,
    losses: npt.ArrayLike,
    *,
    clusters: npt.ArrayLike | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> PowerLawFit:
    """Fit L(c) = (alpha / c)^beta + gamma.

    Args:
        contexts: [K] context lengths, or [K, 2] first and last position (both included) that each loss is the mean of.
        losses: [K] losses in nats per token, or [N, K] those of N windows, which are then weighed by how well the
            windows determine each point (standard error around each window's own level) and resampled for intervals.
        clusters: [N] document of each window; default: each window is its own.
        resamples: bootstrap resamples of documents.
        seed: of the resampling.

    Returns:
        The fit; its intervals need [N, K] losses from at least five documents.

    Raises:
        UserError: fewer than four points, points that are not positive and rising, shapes that do not fit, a loss that
            is NaN or infinite, or losses that do not fall with context.
    """
    spans, values = _checked(contexts, losses)
    groups = np.arange(len(values)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(groups) != len(values):
        raise UserError(f"{len(groups)} clusters are given for {len(values)} windows; give one for each window")
    count = int(groups.max()) + 1
    errors = _errors(values, groups, count) if count >= _LEAST_CLUSTERS else None
    weights = np.ones(spans.shape[0]) if errors is None else 1 / np.maximum(errors, 1e-12) ** 2
    mean = values.mean(axis=0)
    beta, slope, gamma = (float(part[0]) for part in fit_rows(spans, mean[None], weights))
    if slope <= 0:
        raise UserError(
            f"the losses do not fall with context (from {mean[0]:.4f} at {spans[0, 1]:,.0f} to {mean[-1]:.4f} at "
            f"{spans[-1, 1]:,.0f} tokens), so there is no power law to fit; keep to lengths that the model can read"
        )
    law = PowerLaw(slope ** (1 / beta), beta, gamma)
    intervals = _intervals(spans, values, groups, count, weights, law, resamples, seed) if errors is not None else None
    residual = mean - (slope * mean_power(spans, np.array([beta]))[0] + gamma)
    centre = np.average(mean, weights=weights)
    return PowerLawFit(
        law=law,
        intervals=intervals,
        clusters=count,
        ranges=tuple((float(low), float(high)) for low, high in spans),
        losses=tuple(mean.tolist()),
        errors=None if errors is None else tuple(errors.tolist()),
        r2=float(1 - (weights * residual**2).sum() / max((weights * (mean - centre) ** 2).sum(), 1e-300)),
        rmse=float(np.sqrt((residual**2).mean())),
        aicc=_aicc(spans, mean, weights, residual),
    )


def _checked(contexts: npt.ArrayLike, losses: npt.ArrayLike) -> tuple[Floats, Floats]:
    spans, values = np.asarray(contexts, dtype=np.float64), np.atleast_2d(np.asarray(losses, dtype=np.float64))
    if spans.ndim == 1:
        spans = np.stack([spans, spans], axis=1)
    if spans.ndim != 2 or spans.shape[1] != 2 or values.ndim != 2 or values.shape[1] != len(spans):
        raise UserError(
            f"contexts of shape {np.shape(contexts)} and losses of shape {np.shape(losses)} do not fit; expected [K] "
            f"or [K, 2] contexts and [K] or [N, K] losses"
        )
    if len(spans) < _LEAST_POINTS:
        raise UserError(f"a power law with three parameters needs at least {_LEAST_POINTS} points, found {len(spans)}")
    if not (spans > 0).all() or not (np.diff(spans[:, 1]) > 0).all() or not (spans[:, 0] <= spans[:, 1]).all():
        raise UserError("contexts must be positive and rising; sort the points by context and give each once")
    if not np.isfinite(values).all():
        window, point = np.argwhere(~np.isfinite(values))[0]
        raise UserError(f"the loss of window {window} at point {point} is {values[window, point]}; it must be finite")
    return spans, values


def _errors(values: Floats, groups: npt.NDArray[np.intp], count: int) -> Floats | None:
    """Cluster-robust standard error of each point around the windows' own levels; ``None`` without any scatter."""
    centred = values - values.mean(axis=1, keepdims=True)
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, groups, centred - centred.mean(axis=0))
    errors: Floats = np.sqrt((sums**2).sum(axis=0) * count / (count - 1)) / len(values)
    return errors if errors.min() > 1e-12 else None


def _intervals(
    spans: Floats,
    values: Floats,
    groups: npt.NDArray[np.intp],
    count: int,
    weights: Floats,
    law: PowerLaw,
    resamples: int,
    seed: int,
) -> dict[str, tuple[float, float]]:
    """BCa bootstrap over clusters."""
    sums, sizes = np.zeros((count, values.shape[1])), np.bincount(groups, minlength=count).astype(np.float64)
    np.add.at(sums, groups, values)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    without = 1 - np.eye(count)
    found = []
    for chosen in (draws, without):
        beta, slope, gamma = fit_rows(spans, (chosen @ sums) / (chosen @ sizes)[:, None], weights)
        found.append({"alpha": np.maximum(slope, 0) ** (1 / beta), "beta": beta, "gamma": gamma})
    boot, jackknife = found
    return {name: bca_interval(boot[name], jackknife[name], getattr(law, name)) for name in ("alpha", "beta", "gamma")}


def _aicc(spans: Floats, mean: Floats, weights: Floats, residual: Floats) -> dict[str, float]:
    """AICc of the law and of two simpler forms, from weighted residuals."""
    K = len(mean)
    middle = np.sqrt(spans[:, 0] * spans[:, 1])
    design = np.stack([np.ones(K), np.log(middle)], axis=1) * np.sqrt(weights)[:, None]
    target = mean * np.sqrt(weights)
    line = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    level = (mean - np.average(mean, weights=weights)) * np.sqrt(weights)
    forms = {"power": (residual * np.sqrt(weights), 4), "log": (line, 3), "constant": (level, 2)}

    def criterion(part: Floats, parameters: int) -> float:
        correction = 2 * parameters * (parameters + 1) / (K - parameters - 1) if parameters + 1 < K else math.inf
        return K * math.log(max(float((part**2).sum()) / K, 1e-300)) + 2 * parameters + correction

    return {name: criterion(*form) for name, form in forms.items()}
