"""Draws divided in proportion, exactly and without state."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_long.data.allocation import Allocation


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12))
def test_locating_and_counting_agree_and_shares_hold(weights):
    allocation = Allocation(weights)
    seen = [0] * len(weights)
    shares = np.array(weights) / sum(weights)
    for draw in range(200):
        assert allocation.counts(draw) == seen
        part, before = allocation.locate(draw)
        assert before == seen[part]
        seen[part] += 1
        # half a draw for each level of the tree
        assert np.abs(np.array(seen) - shares * (draw + 1)).max() <= 0.5 * math.ceil(math.log2(len(weights) + 1)) + 1e-6


@pytest.mark.parametrize("draw", [10**9, 10**12, 10**15 + 7])
def test_far_draws_are_exact_and_cost_nothing(draw):
    allocation = Allocation([0.5, 0.3, 0.15, 0.05])
    part, before = allocation.locate(draw)
    now, then = allocation.counts(draw), allocation.counts(draw + 1)
    assert sum(now) == draw
    assert then[part] == now[part] + 1 == before + 1
    assert sum(then) == draw + 1
    assert abs(now[0] - draw * 0.5) <= 1 + draw * 2**-39


def test_a_single_part_takes_all():
    assert [Allocation([3.0]).locate(n) for n in (0, 1, 99)] == [(0, 0), (0, 1), (0, 99)]
