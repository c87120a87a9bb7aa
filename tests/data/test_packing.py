"""Best fit, and batches token by token."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_long.data.loader import assemble
from lit_long.data.packing.batch import IGNORE
from lit_long.data.packing.best_fit import best_fit, cut
from tests.data.fakes import FakeCorpus, plan_of, spans_of


def pieces_of(lengths):
    return np.array([[i, 0, n] for i, n in enumerate(lengths)], dtype=np.int64).reshape(-1, 3)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 50), max_size=40), capacity=st.integers(1, 50))
def test_cut_and_best_fit_hold_each_token_once(lengths, capacity):
    full, short = cut(pieces_of(lengths), capacity)
    assert all(end - begin == capacity for _, begin, end in full.tolist())
    assert all(0 < end - begin < capacity for _, begin, end in short.tolist())
    rows = best_fit(short, capacity)
    assert all(sum(end - begin for _, begin, end in row.tolist()) <= capacity for row in rows)
    found = [(d, t) for row in [*rows, full] for d, begin, end in row.tolist() for t in range(begin, end)]
    assert sorted(found) == [(d, t) for d, n in enumerate(lengths) for t in range(n)]


def simple_best_fit(lengths, capacity):
    """The definition: longest first, into the fullest row with room."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda i: rooms[i])] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), max_size=60))
def test_best_fit_is_best_fit_decreasing(lengths):
    rows = best_fit(pieces_of(lengths), 30)
    rooms = sorted(30 - int((row[:, 2] - row[:, 1]).sum()) for row in rows)
    assert rooms == simple_best_fit(lengths, 30)


@pytest.mark.parametrize("packing", ["concat", "best_fit", "single"])
@pytest.mark.parametrize("document_mask", [True, False])
def test_batches_token_by_token(packing, document_mask):
    lengths = [5, 1, 17, 8, 30, 1, 1, 3]
    corpus = FakeCorpus(lengths)  # tokens are their own places in the stream
    plan = plan_of([corpus], packing=packing, length=8, sequences=4)
    last = set((corpus.starts[1:] - 1).tolist())
    for step in range(12):
        rows = plan.step(step)
        batch = assemble(plan, rows, 1.0, document_mask)
        assert batch["input_ids"].shape == batch["position_ids"].shape == batch["target_ids"].shape == (4, 8)
        assert {batch[k].dtype for k in ("input_ids", "position_ids", "target_ids")} == {torch.int64}
        expected_lengths = []
        for number, row in enumerate(rows):
            place = 0
            for _, document, begin, end in spans_of([row]):
                start = int(corpus.starts[document])
                for token in range(start + begin, start + end):
                    assert batch["input_ids"][number, place] == token
                    target = IGNORE if token in last else token + 1
                    assert batch["target_ids"][number, place] == target
                    if document_mask:
                        assert batch["position_ids"][number, place] == token - start - begin
                    place += 1
                expected_lengths.append(end - begin)
            if place < 8:
                expected_lengths.append(8 - place)
                assert (batch["target_ids"][number, place:] == IGNORE).all()
                assert (batch["input_ids"][number, place:] == 0).all()  # the corpus's EOS
                if document_mask:
                    assert batch["position_ids"][number, place:].tolist() == list(range(8 - place))
        if not document_mask:
            expected_lengths = [8] * 4
            assert batch["position_ids"].tolist() == [list(range(8))] * 4
        assert batch["cu_seqlens"].dtype == torch.int32
        assert batch["cu_seqlens"].diff().tolist() == expected_lengths
        assert batch["max_seqlen"] == max(expected_lengths)
        assert int((batch["target_ids"] != IGNORE).sum()) == plan.step_targets(step)
