"""Means with 95 % confidence intervals that respect how text clusters.

Tokens of one document are correlated, so an interval over tokens is too narrow by an order of magnitude (measured on
SmolLM2: 0.02 nats over tokens, 0.1 to 0.2 over three documents). The unit here is therefore the window, grouped
into clusters (documents, or with fewer than five documents the windows themselves). The interval is the cluster-robust
one with Student's t at G - 1 degrees of freedom rather than a percentile bootstrap: it can be checked by
hand, needs no seed and stays honest for the 5 to 10 documents of a small run, where a bootstrap is too narrow.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % confidence interval, in nats per token."""

    mean: float
    half_width: float | None
    """``None`` where a single cluster leaves nothing to estimate the spread from."""
    clusters: int
    """Number of independent clusters G behind the interval."""

    @property
    def low(self) -> float | None:
        """Lower end of the 95 % interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the 95 % interval."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def direction(self) -> int:
        """1 or -1 where the whole interval is above or below zero, else 0 (also without an interval)."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1


@lru_cache
def student_t_975(degrees: int) -> float:
    """The 97.5 % quantile of Student's t with an integer number of degrees of freedom (12.706 for 1, 1.960 for many).

    Bisects the exact distribution function (Abramowitz and Stegun 26.7.3 and 26.7.4), so that no SciPy is needed.
    """
    assert degrees >= 1
    low, high = 0.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _central_probability(middle, degrees) < 0.95 else (low, middle)
    return (low + high) / 2


def _central_probability(t: float, degrees: int) -> float:
    """P(\\|T\\| <= t) for Student's t with ``degrees`` degrees of freedom."""
    theta = math.atan(t / math.sqrt(degrees))
    cosine = math.cos(theta)
    odd = degrees % 2
    # Terms cos, 2/3 cos^3, (2*4)/(3*5) cos^5 ... for odd degrees; 1, 1/2 cos^2, (1*3)/(2*4) cos^4 ... for even ones.
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= cosine * cosine * (power + 1) / (power + 2)
    if odd:
        return 2 / math.pi * (theta + math.sin(theta) * total)
    return math.sin(theta) * total


def cluster_intervals(values: Tensor, clusters: Tensor) -> tuple[Tensor, Tensor | None, int]:
    """Column means of per-window values and the half widths of their 95 % intervals.

    Args:
        values: [windows, columns], any float dtype; every window weighs the same.
        clusters: int64 [windows]; windows with the same number are one cluster.

    Returns:
        Means float64 [columns], half widths float64 [columns] or ``None`` with fewer than two clusters, and the number
        of clusters G. With r the residuals from the mean, the variance is G/(G-1) * sum over clusters of
        (sum of r in the cluster)^2 / N^2; for clusters of equal size that is the variance of the mean of their means.
    """
    values_NK = values.double()
    mean_K = values_NK.mean(dim=0)
    unique, index_N = torch.unique(clusters, return_inverse=True)
    G, N = unique.numel(), values_NK.shape[0]
    if G < 2:
        return mean_K, None, G
    sums_GK = torch.zeros(G, values_NK.shape[1], dtype=torch.float64).index_add_(0, index_N, values_NK - mean_K)
    variance_K = sums_GK.square().sum(dim=0) * G / (G - 1) / N**2
    return mean_K, student_t_975(G - 1) * variance_K.sqrt(), G


def cluster_estimate(values: Tensor, clusters: Tensor) -> Estimate:
    """:func:`cluster_intervals` for a single column: the mean of ``values`` [windows] with its interval."""
    mean, half, count = cluster_intervals(values[:, None], clusters)
    return Estimate(mean.item(), None if half is None else half.item(), count)
