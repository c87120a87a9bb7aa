"""The stateless shuffle: a bijection for every size and seed, well mixed, the same on every machine and process."""

import os
import subprocess
import sys
from itertools import pairwise

import pytest

from lit_long.data.permutation import permuted, permuted_range, seed_of

SIZES = sorted({1, 2, 3, 5, 6, 7, 100, 1000} | {2**k + d for k in range(1, 12) for d in (-1, 0, 1)} - {0})

KNOWN = [3, 2, 1, 7, 5, 4, 0, 6, 9, 8]  # for size 10, seed_of(42); made once with this code


def shuffle(size, seed):
    return [permuted(i, size, seed) for i in range(size)]


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**64 - 1])
def test_bijection(seed):
    for size in SIZES:
        assert sorted(shuffle(size, seed)) == list(range(size)), size


def test_large_sizes_stay_in_range_without_walking_all():
    for size in (2**40 - 1, 2**40, 2**40 + 1):
        places = {permuted(i, size, 7) for i in range(2000)}
        assert len(places) == 2000
        assert 0 <= min(places) <= max(places) < size
        assert max(places) - min(places) > 0.9 * size  # neighbours are spread over everything


def test_every_place_comes_everywhere():
    """Over many seeds, item i lands on each place about equally often: chi-square far below a broken shuffle's."""
    size, seeds = 12, 6000
    counts = [[0] * size for _ in range(size)]
    for seed in range(seeds):
        for index, place in enumerate(shuffle(size, seed_of(seed))):
            counts[index][place] += 1
    expected = seeds / size
    for row in counts:
        chi_square = sum((n - expected) ** 2 / expected for n in row)
        assert chi_square < 45  # 11 degrees of freedom: 31 is a chance of 1 in 1000


def test_order_is_not_the_identity_and_neighbours_part():
    for seed in range(20):
        order = shuffle(1000, seed_of(seed))
        assert sum(i == place for i, place in enumerate(order)) < 12  # one is expected
        assert sum(b == a + 1 for a, b in pairwise(order)) < 12


def test_seeds_give_other_orders():
    orders = {tuple(shuffle(50, seed_of(seed))) for seed in range(200)}
    assert len(orders) == 200


def test_seed_of_tells_parts_and_their_order_apart():
    parts = [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0), (0, 1, 2), (0, 2, 1), (-1,), (2**63,)]
    assert len({seed_of(*p) for p in parts}) == len(parts)
    assert all(0 <= seed_of(*p) < 2**64 for p in parts)


def test_known_values_and_other_processes():
    """The order is part of a run's identity: it must never change, not even by Python's own hash seed."""
    known = shuffle(10, seed_of(42))
    assert known == KNOWN
    code = "from lit_long.data.permutation import *; print([permuted(i, 10, seed_of(42)) for i in range(10)])"
    for hash_seed in ("0", "12345"):
        out = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert out.stdout.strip() == str(known)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 65_537, 10**9, 2**40])
def test_a_range_at_once_is_the_same_as_one_by_one(size):
    first = size // 3
    stop = min(size, first + 300)
    expected = [permuted(index, size, 11) for index in range(first, stop)]
    assert permuted_range(first, stop, size, 11).tolist() == expected
