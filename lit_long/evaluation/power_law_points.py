"""Losses by position as the points of a power law, in its two readings.

The paper does not say which of them its Fig. 1 uses: the loss *at* position c (here the default), or the mean loss of a
window of c tokens. beta and gamma agree for long contexts; alpha does not, so compare alpha within one reading only.
"""

import math

import numpy as np
import numpy.typing as npt

from lit_long.errors import UserError

Floats = npt.NDArray[np.float64]


def position_points(nll: npt.ArrayLike, *, first: int = 64, last: int | None = None) -> tuple[Floats, Floats]:
    """Half-octave buckets of losses by position: (ranges [K, 2] of positions, means [N, K]).

    Args:
        nll: [N, S] losses; column i is position i + 1.
        first: first position used: the ones before lack more than context.
        last: last position used, e.g. the trained length; default: S.
    """
    values = np.asarray(nll, dtype=np.float64)
    edges = _edges(first, min(last or values.shape[1], values.shape[1]))
    sums = np.concatenate([np.zeros((len(values), 1)), values.cumsum(axis=1)], axis=1)
    low, high = edges[:-1], edges[1:]
    return np.stack([low + 1, high], axis=1).astype(np.float64), (sums[:, high] - sums[:, low]) / (high - low)


def window_points(nll: npt.ArrayLike, *, first: int = 64, last: int | None = None) -> tuple[Floats, Floats]:
    """The other reading of "loss at context c": the mean over positions 1 to c. beta and gamma agree with
    :func:`position_points` for long contexts; alpha is larger by (1 - beta)^(-1 / beta), 3.8 times at beta 0.45.

    Returns (contexts [K], means [N, K]) at half octaves from ``first`` to ``last``.
    """
    values = np.asarray(nll, dtype=np.float64)
    ends = _edges(first, min(last or values.shape[1], values.shape[1]))
    return ends.astype(np.float64), values.cumsum(axis=1)[:, ends - 1] / ends


def _edges(first: int, last: int) -> npt.NDArray[np.int64]:
    if last < 4 * first:
        raise UserError(
            f"positions {first:,} to {last:,} span less than two octaves, too little for a power law; "
            f"evaluate on windows of at least {4 * first:,} tokens"
        )
    steps = round(2 * math.log2(last / first))
    return np.unique(np.round(first * (last / first) ** (np.arange(steps + 1) / steps)).astype(np.int64))
