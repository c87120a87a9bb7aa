"""Loss by position: does a model's loss keep falling along a long window, or explode beyond its native length?

Position p is the number of tokens that a prediction can see, 1 to S. Losses are averaged in buckets that double from
64, with extra edges at the native length and at 1.25 times it: models often hold until about there, and a bucket twice
as wide would hide where they break. Levels carry wide intervals (documents differ by 0.1 to 0.5 nats), while
differences within the same windows, between models or between positions, are far tighter: compare with those.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from lit_long.evaluation.intervals import Estimate, cluster_estimate, cluster_intervals
from lit_long.evaluation.token_nll import position_nll
from lit_long.evaluation.windows import Windows

_FIRST_EDGE = 64
_CURVE_POINTS = 160
# The first positions have a handful of tokens each and losses that would squeeze the rest of the plot.
_CURVE_FIRST = 16
_CURVE_FACTOR = 2**0.125


@dataclass(frozen=True)
class Bucket:
    """Mean loss over positions ``first`` to ``last``, both included, counted from 1."""

    first: int
    last: int
    loss: Estimate
    tokens: int
    """Predictions averaged: windows times positions."""


@dataclass(frozen=True)
class Curve:
    """Smoothed loss by position for a plot; every point is a mean over positions within a quarter octave around it."""

    positions: tuple[float, ...]
    loss: tuple[float, ...]
    low: tuple[float, ...] | None
    """Lower ends of the 95 % intervals, ``None`` with a single cluster."""
    high: tuple[float, ...] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class PositionLoss:
    """Loss by position of one model on one set of windows, in nats per token."""

    windows: Windows
    native_length: int | None
    overall: Estimate
    buckets: tuple[Bucket, ...]
    within_native: Bucket
    """All positions up to the native length (all there are, if it is unknown)."""
    beyond_native: Bucket | None
    """All positions beyond the native length, ``None`` where the windows are not longer."""
    reference: Bucket
    """The second half of the native length, where the context is long but familiar."""
    beyond_change: Estimate | None
    """Loss beyond the native length minus the loss in ``reference``, paired within windows: above 0, it breaks."""
    curve: Curve
    nll: Tensor
    """float32 [N, S]: the raw losses behind everything else."""


@dataclass(frozen=True)
class PairedDifference:
    """Loss of a second model minus loss of a first one on the same tokens: below 0, the second is better."""

    overall: Estimate
    within_native: Estimate
    beyond_native: Estimate | None
    buckets: tuple[Estimate, ...]
    """One for each bucket of the two models."""


def loss_by_position(
    model: nn.Module,
    windows: Windows,
    *,
    native_length: int | None = None,
    batch_size: int | None = None,
    logit_chunk: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> PositionLoss:
    """Measure a model's loss by position on ``windows``.

    Args:
        model: A Hugging Face causal language model.
        windows: From :func:`lit_long.evaluation.take_windows`; use the same for every model that is compared.
        native_length: Context length of the original model, an edge of the buckets.
        batch_size: Windows per forward; by default as many as make 16,384 tokens.
        logit_chunk: Tokens whose logits exist at one time.
        progress: Called with the number of input tokens just finished.

    Raises:
        UserError: See :func:`lit_long.evaluation.position_nll`; NaN and infinite losses raise, they are never averaged.
    """
    nll = position_nll(model, windows.ids, batch_size=batch_size, logit_chunk=logit_chunk, progress=progress)
    return summarise(nll, windows, native_length)


def bucket_edges(length: int, native_length: int | None) -> list[int]:
    """Edges 0, 64, 128, ... doubling up to ``length``, with the native length and 1.25 times it added."""
    edges = {0, length}
    edge = _FIRST_EDGE
    while edge < length:
        edges.add(edge)
        edge *= 2
    if native_length is not None:
        edges |= {edge for edge in (native_length, native_length + native_length // 4) if edge < length}
    return sorted(edges)


def summarise(nll: Tensor, windows: Windows, native_length: int | None) -> PositionLoss:
    """Turn raw losses, float32 [N, S], into buckets, intervals and a curve.

    The intervals cluster the windows as ``windows.clustered_by`` says: by document from five documents on.
    """
    assert nll.shape == (windows.ids.shape[0], windows.length), (nll.shape, windows.ids.shape)
    assert nll.isfinite().all()
    edges = bucket_edges(windows.length, native_length)
    native = min(native_length or windows.length, windows.length)
    reference = _bucket(nll, native // 2, native, windows.clusters)
    beyond, change = None, None
    if native < windows.length:
        beyond = _bucket(nll, native, windows.length, windows.clusters)
        rise = _mean(nll, native, windows.length) - _mean(nll, native // 2, native)
        change = cluster_estimate(rise, windows.clusters)
    return PositionLoss(
        windows=windows,
        native_length=native_length,
        overall=cluster_estimate(_mean(nll, 0, windows.length), windows.clusters),
        buckets=tuple(_bucket(nll, low, high, windows.clusters) for low, high in pairwise(edges)),
        within_native=_bucket(nll, 0, native, windows.clusters),
        beyond_native=beyond,
        reference=reference,
        beyond_change=change,
        curve=_curve(nll, native, windows.clusters),
        nll=nll,
    )


def paired_difference(first: PositionLoss, second: PositionLoss) -> PairedDifference:
    """Loss of ``second`` minus loss of ``first``, window by window, with intervals of the difference.

    Both must have been measured on the same windows and be summarised with the same native length.
    """
    assert first.windows.fingerprint == second.windows.fingerprint, "paired models need the same windows"
    assert first.native_length == second.native_length
    clusters, difference = first.windows.clusters, second.nll.double() - first.nll.double()

    def over(bucket: Bucket) -> Estimate:
        return cluster_estimate(_mean(difference, bucket.first - 1, bucket.last), clusters)

    return PairedDifference(
        overall=cluster_estimate(difference.mean(dim=1), clusters),
        within_native=over(first.within_native),
        beyond_native=over(first.beyond_native) if first.beyond_native else None,
        buckets=tuple(over(bucket) for bucket in first.buckets),
    )


def window_means(loss: PositionLoss) -> tuple[tuple[int, Estimate], ...]:
    """Mean loss of the first c tokens for each bucket's end c: what a window of c tokens costs as a whole.

    It lags behind the loss by position, because it keeps averaging in the tokens that saw little; papers that report
    "loss at context c" as the loss of windows of c tokens mean this.
    """
    clusters = loss.windows.clusters
    return tuple((b.last, cluster_estimate(_mean(loss.nll, 0, b.last), clusters)) for b in loss.buckets)


def change_beyond(loss: PositionLoss, length: int) -> Estimate | None:
    """Loss beyond ``length`` minus loss in its second half, paired within windows: above 0, it does not extrapolate.

    Args:
        loss: of one model.
        length: for instance the context length that the model was trained on.

    Returns:
        ``None`` where the windows are not longer.
    """
    S = loss.windows.length
    if length >= S:
        return None
    rise = _mean(loss.nll, length, S) - _mean(loss.nll, length // 2, length)
    return cluster_estimate(rise, loss.windows.clusters)


def _mean(nll: Tensor, low: int, high: int) -> Tensor:
    """float64 [N]: each window's mean over columns ``low`` to ``high`` - 1, which are positions low + 1 to high."""
    return nll[:, low:high].double().mean(dim=1)


def _bucket(nll: Tensor, low: int, high: int, clusters: Tensor) -> Bucket:
    loss = cluster_estimate(_mean(nll, low, high), clusters)
    return Bucket(first=low + 1, last=high, loss=loss, tokens=nll.shape[0] * (high - low))


def _curve(nll: Tensor, native: int, clusters: Tensor) -> Curve:
    """Means over [p / 2^(1/8), p * 2^(1/8)] around log-spaced points p, never across the native length."""
    S = nll.shape[1]
    sums_NS = torch.nn.functional.pad(nll.double().cumsum(dim=1), (1, 0))
    spans: list[tuple[int, int]] = []
    first = min(_CURVE_FIRST, S)
    for point in (first * (S / first) ** (i / (_CURVE_POINTS - 1)) for i in range(_CURVE_POINTS)):
        low, high = max(0, round(point / _CURVE_FACTOR) - 1), min(S, round(point * _CURVE_FACTOR))
        low, high = (low, min(high, native)) if point <= native else (max(low, native), high)
        if high > low and (low, high) not in spans:
            spans.append((low, high))
    starts, ends = torch.tensor(spans).T
    mean, half, _ = cluster_intervals((sums_NS[:, ends] - sums_NS[:, starts]) / (ends - starts), clusters)
    return Curve(
        positions=tuple(((low + 1) * high) ** 0.5 for low, high in spans),
        loss=tuple(mean.tolist()),
        low=None if half is None else tuple((mean - half).tolist()),
        high=None if half is None else tuple((mean + half).tolist()),
    )
