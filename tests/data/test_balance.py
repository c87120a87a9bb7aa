"""Dealing rows evenly: nothing lost, and close to the best that there is."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_long.data.balance import deal, imbalance, in_order, row_costs
from lit_long.data.loader import Dealing
from tests.data.fakes import plan_of, spans_of


@settings(max_examples=100, deadline=None)
@given(replicas=st.integers(1, 4), micro_batch=st.integers(1, 3), groups=st.integers(1, 4), seed=st.integers(0, 999))
def test_every_row_goes_to_one_place_and_never_worse_than_in_order(replicas, micro_batch, groups, seed):
    rows = replicas * micro_batch * groups
    costs = np.random.default_rng(seed).pareto(1.5, rows) + 1
    dealt = deal(costs, replicas=replicas, micro_batch=micro_batch)
    assert dealt.shape == (groups, replicas, micro_batch)
    assert sorted(dealt.ravel().tolist()) == list(range(rows))
    assert imbalance(costs, dealt) >= 1 - 1e-12
    if micro_batch == 1:  # grouping by size is optimal then
        assert imbalance(costs, dealt) <= imbalance(costs, in_order(rows, replicas=replicas, micro_batch=1)) + 1e-12


def test_one_sequence_at_a_time_is_dealt_as_well_as_can_be():
    costs = np.array([9.0, 1.0, 5.0, 2.0, 8.0, 3.0])
    best = min(imbalance(costs, np.array(order).reshape(3, 2, 1)) for order in permutations(range(6)))
    assert imbalance(costs, deal(costs, replicas=2, micro_batch=1)) == pytest.approx(best)


def test_costs_are_those_of_the_documents_in_a_row():
    plan = plan_of([[8, 2, 2, 2, 2]], length=8, sequences=2, packing="best_fit")
    rows = sorted(plan.step(0), key=lambda row: len(row.pieces))
    assert row_costs(rows, 0.5).tolist() == [8 + 0.5 * 64, 8 + 0.5 * 16]
    assert row_costs(rows, 0.5, document_mask=False).tolist() == [40, 40]
    (row,) = plan_of([[5, 1]], length=8, sequences=1, packing="best_fit").step(0)
    assert row_costs([row], 1.0).tolist() == [8 + 25 + 1 + 4]  # two tokens of padding attend to each other


@pytest.mark.parametrize("replicas", [1, 2, 4])
def test_real_lengths_are_dealt_much_more_evenly_and_the_step_is_the_same(replicas):
    lengths = np.random.default_rng(0).lognormal(6, 2, 4000).astype(int) + 1
    plan = plan_of([lengths], length=4096, sequences=32, packing="best_fit")
    dealing = Dealing(0, replicas, 1 / 600)
    before, after = [], []
    for step in range(20):
        rows = plan.step(step)
        costs = row_costs(rows, 1 / 600)
        dealt = dealing.deal(plan, step)
        before.append(imbalance(costs, in_order(32, replicas=replicas, micro_batch=1)) - 1)
        after.append(imbalance(costs, dealt) - 1)
        assert after[-1] <= before[-1] + 1e-12
        assert sorted(spans_of([rows[i] for i in dealt.ravel()])) == sorted(spans_of(rows))
    assert np.mean(after) <= 0.35 * np.mean(before)
    assert replicas == 1 or np.mean(before) > 0.05  # there was something to even out
