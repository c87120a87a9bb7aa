"""A shuffle that needs no memory: where the i-th item of a shuffled list of n stands, computed from i alone.

A terabyte corpus has hundreds of millions of sequences; a stored permutation of them costs gigabytes on every rank and
must be rebuilt at each restart. A Feistel network over the next even power of two, walked until it lands below n, is a
bijection with no state (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
"""

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_ROUNDS = 6


def _mix(value: int) -> int:
    """splitmix64: a well-mixed 64-bit hash of a 64-bit number (Steele et al. 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def seed_of(*parts: int) -> int:
    """One 64-bit seed from several numbers, the order of which matters."""
    seed = 0
    for part in parts:
        seed = _mix(seed ^ _mix(part & _MASK))
    return seed


def permuted(index: int, size: int, seed: int) -> int:
    """Position in 0..size-1 that comes ``index``-th in the shuffle given by ``seed``; a bijection for each seed."""
    assert 0 <= index < size
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    value = index
    while True:
        left, right = value >> half, value & low
        for round_ in range(_ROUNDS):
            left, right = right, left ^ (_mix(right ^ _mix(seed + round_)) & low)
        value = (left << half) | right
        if value < size:
            return value


def permuted_range(first: int, stop: int, size: int, seed: int) -> npt.NDArray[np.int64]:
    """``permuted`` of first..stop-1 at once, int64 [stop - first]."""
    assert 0 <= first <= stop <= size
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low, shift = np.uint64((1 << half) - 1), np.uint64(half)
    keys = [np.uint64(_mix(seed + round_)) for round_ in range(_ROUNDS)]
    value = np.arange(first, stop, dtype=np.uint64)
    outside = np.ones(len(value), dtype=bool)
    while outside.any():
        walking = value[outside]
        left, right = walking >> shift, walking & low
        for key in keys:
            left, right = right, left ^ (_mix_array(right ^ key) & low)
        value[outside] = (left << shift) | right
        outside = value >= np.uint64(size)
    return value.astype(np.int64)


def _mix_array(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """:func:`_mix` of each element; uint64 arithmetic wraps as the mask does."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
