"""Packed batches, position by position; a token's value is its place in the stream, so a row tells its own truth."""

import numpy as np
import pytest
import torch

from lit_long.data import StepPlan, TokenCorpus
from lit_long.data.packing import IGNORE, pack_batch, pack_row


class Stream:
    """A corpus whose token at position p is p."""

    def __init__(self, lengths):
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.tokens = int(self.starts[-1])

    def read(self, start, stop):
        assert 0 <= start <= stop <= self.tokens
        return np.arange(start, stop)

    def plan(self, sequence_length, sequences=2):
        return StepPlan(self.starts, sequence_length=sequence_length, tokens_per_step=sequence_length * sequences)


def check_row(stream, start, inputs, positions, targets):
    """By hand, one position after the other."""
    ends = set(stream.starts[1:].tolist())
    begins = set(stream.starts[:-1].tolist())
    for i, token in enumerate(inputs.tolist()):
        assert token == (start + i) % stream.tokens
        assert targets[i] == (IGNORE if token + 1 in ends else token + 1)
        restarts = i == 0 or token in begins
        assert positions[i] == (0 if restarts else positions[i - 1] + 1)


@pytest.mark.parametrize(
    "lengths",
    [[5, 1, 17, 8, 1, 1, 3], [40], [1] * 23, [8, 8, 8], [3, 5], [9, 7], [1, 30]],
    ids=["mixed", "one long", "only EOS", "exactly S", "shorter than S", "one over", "EOS first"],
)
@pytest.mark.parametrize("sequence_length", [2, 7, 8])
def test_every_start(lengths, sequence_length):
    stream = Stream(lengths)
    plan = stream.plan(sequence_length)
    for start in range(stream.tokens):
        inputs, positions, targets, sizes = pack_row(stream, plan, start)
        for part in (inputs, positions, targets):
            assert part.shape == (sequence_length,)
            assert part.dtype == torch.int64
        check_row(stream, start, inputs, positions, targets)
        assert sum(sizes) == sequence_length
        assert int((targets != IGNORE).sum()) == plan.targets(start)


def test_known_row():
    stream = Stream([3, 1, 6])
    inputs, positions, targets, sizes = pack_row(stream, stream.plan(8), 5)  # to the end of the ring and on
    assert inputs.tolist() == [5, 6, 7, 8, 9, 0, 1, 2]
    assert positions.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert targets.tolist() == [6, 7, 8, 9, IGNORE, 1, 2, IGNORE]
    assert sizes == [5, 3]
    inputs, _, targets, sizes = pack_row(stream, stream.plan(8), 0)  # cut inside a document: the target stays
    assert inputs.tolist()[-1] == 7
    assert targets.tolist() == [1, 2, IGNORE, IGNORE, 5, 6, 7, 8]
    assert sizes == [3, 1, 4]


def test_batch():
    stream = Stream([5, 1, 17, 8, 1, 1, 3])
    plan = stream.plan(8)
    starts = [0, 30, 4]
    batch = pack_batch(stream, plan, starts, step_target_weight=20.0)
    assert set(batch) == {
        "input_ids",
        "position_ids",
        "target_ids",
        "cu_seqlens",
        "max_seqlen",
        "step_target_weight",
    }
    for name in ("input_ids", "position_ids", "target_ids"):
        assert batch[name].shape == (3, 8)
        assert batch[name].dtype == torch.int64
    for row, start in enumerate(starts):
        check_row(stream, start, batch["input_ids"][row], batch["position_ids"][row], batch["target_ids"][row])
    bounds = batch["cu_seqlens"].tolist()
    assert batch["cu_seqlens"].dtype == torch.int32
    # a boundary wherever positions restart, and nowhere else
    assert bounds == [*torch.nonzero(batch["position_ids"].flatten() == 0).flatten().tolist(), 24]
    assert batch["max_seqlen"] == max(np.diff(bounds))
    assert batch["step_target_weight"] == 20.0


def test_real_corpus(corpus_dir):
    corpus = TokenCorpus(corpus_dir)
    plan = StepPlan(corpus.starts, sequence_length=512, tokens_per_step=1024)
    eos = corpus.info["tokenizer"]["eos_token_id"]
    stream = corpus.read(0, corpus.tokens)
    for step in range(plan.sequences_per_epoch // 2):
        refs = plan.step(step)
        batch = pack_batch(corpus, plan, [ref.start for ref in refs], step_target_weight=1.0)
        for row, ref in enumerate(refs):
            places = (ref.start + np.arange(512)) % corpus.tokens
            following = stream[(places + 1) % corpus.tokens]
            expected = np.where(stream[places] == eos, IGNORE, following)
            assert batch["input_ids"][row].tolist() == stream[places].tolist()
            assert batch["target_ids"][row].tolist() == expected.tolist()


def test_default_dtype_does_not_matter():
    torch.set_default_dtype(torch.float64)
    stream = Stream([3, 9])
    batch = pack_batch(stream, stream.plan(4), [1], step_target_weight=1.0)
    assert batch["target_ids"].dtype == batch["position_ids"].dtype == torch.int64
