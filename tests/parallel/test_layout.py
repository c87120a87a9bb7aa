"""How a micro-batch is divided: every token once, equally many a rank, and nearly equal attention."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_long.errors import UserError
from lit_long.parallel.layout import plan_layout


def cuts(lengths):
    return [0, *np.cumsum(lengths).tolist()]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_every_token_once_and_runs_describe_them(lengths, ranks):
    layout = plan_layout(cuts(lengths), ranks)
    everything = np.concatenate([layout.index(rank) for rank in range(ranks)])
    assert sorted(everything.tolist()) == list(range(ranks * layout.local_tokens))
    # gathered blocks, put in order, are the sequence
    gathered = everything.reshape(-1, layout.block)[layout.order].reshape(-1)
    assert gathered.tolist() == list(range(len(everything)))
    starts = np.asarray([*cuts(lengths), len(everything) + 1])
    for rank in range(ranks):
        index, pairs, at = layout.index(rank), 0, 0
        for run in layout.runs(rank):
            assert run.local == at
            assert index[at : at + run.tokens].tolist() == list(range(run.query_cuts[0], run.key_stop))
            for begin, stop, key in zip(run.query_cuts, run.query_cuts[1:], run.key_cuts, strict=False):
                document = np.searchsorted(starts, begin, side="right") - 1
                assert key == starts[document]
                pairs += sum(place - key + 1 for place in range(begin, stop))
            at += run.tokens
        assert at == layout.local_tokens
        assert layout.pairs()[rank] == pairs


def test_one_document_is_the_zigzag_of_ring_attention():
    assert plan_layout([0, 8192], 4).blocks.tolist() == [[0, 7], [1, 6], [2, 5], [3, 4]]


@pytest.mark.parametrize(
    "lengths", [[32_768], [30_000, 2_768], [1_000] * 32, [20_000, *[500] * 25], [100] * 327, [9_000, 14_000, 9_768]]
)
@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_balance(lengths, ranks):
    pairs = plan_layout(cuts(lengths), ranks).pairs()
    assert pairs.max() / pairs.mean() < 1.06


def test_bad_boundaries():
    for wrong in ([0], [5, 9], [0, 9, 4], [0, 0]):
        with pytest.raises(UserError, match="must rise from 0"):
            plan_layout(wrong, 2)
