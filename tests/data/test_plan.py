"""The step plan by brute force: coverage, counts, and independence of the number of devices."""

from itertools import pairwise

import numpy as np
import pytest

from lit_long.data import StepPlan
from lit_long.errors import UserError

DOCUMENTS = {
    "mixed": [5, 1, 17, 8, 30, 1, 1, 3],
    "one": [40],
    "singles": [1] * 23,
    "exact": [8, 8, 8],
    "shortest": [3, 5],
}
LENGTHS = [2, 3, 7, 8]


def plan_of(lengths, sequence_length=8, sequences=2, **options):
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return StepPlan(starts, sequence_length=sequence_length, tokens_per_step=sequence_length * sequences, **options)


def ring(plan, start):
    return [(start + i) % plan.tokens for i in range(plan.sequence_length)]


@pytest.mark.parametrize("lengths", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("sequence_length", LENGTHS)
def test_every_epoch_holds_every_token_and_few_twice(lengths, sequence_length):
    plan = plan_of(lengths, sequence_length, seed=3)
    for epoch in range(5):
        first = epoch * plan.sequences_per_epoch
        refs = [plan.sequence(first + i) for i in range(plan.sequences_per_epoch)]
        assert [ref.number for ref in refs] == list(range(first, first + len(refs)))
        assert {ref.epoch for ref in refs} == {epoch}
        seen = np.bincount([p for ref in refs for p in ring(plan, ref.start)], minlength=plan.tokens)
        assert len(seen) == plan.tokens
        assert seen.min() == 1
        assert seen.max() <= 2
        assert int((seen == 2).sum()) <= sequence_length - 1


@pytest.mark.parametrize("lengths", DOCUMENTS.values(), ids=DOCUMENTS)
@pytest.mark.parametrize("sequence_length", LENGTHS)
def test_pieces_and_targets_of_every_start(lengths, sequence_length):
    plan = plan_of(lengths, sequence_length)
    document_of = np.repeat(np.arange(len(lengths)), lengths)
    last = set((np.cumsum(lengths) - 1).tolist())
    for start in range(plan.tokens):
        pieces = plan.pieces(start)
        assert [p for a, b in pieces for p in range(a, b)] == ring(plan, start)
        for a, b in pieces:
            assert a < b
            assert len(set(document_of[a:b])) == 1  # never across a document's end
        # and never cut where nothing ends
        for (_, b), (a, _) in pairwise(pieces):
            assert b - 1 in last
            assert a == b % plan.tokens
        assert plan.targets(start) == sum(position not in last for position in ring(plan, start))


def test_steps_take_the_sequences_in_turn():
    plan = plan_of(DOCUMENTS["mixed"], sequences=3)
    taken = [ref for step in range(30) for ref in plan.step(step)]
    assert taken == [plan.sequence(n) for n in range(90)]
    assert taken[-1].epoch > 5  # goes on over epochs
    for step in range(30):
        assert plan.step_targets(step) == sum(plan.targets(ref.start) for ref in plan.step(step))
    assert plan_of(DOCUMENTS["shortest"], sequences=5).step(0)[-1].epoch == 4  # a step larger than the corpus


def test_cuts_and_order_differ_by_epoch_and_seed():
    def starts(seed, epoch):
        plan = plan_of([1000, 3000], seed=seed)
        n = plan.sequences_per_epoch
        return [plan.sequence(epoch * n + i).start for i in range(n)]

    arms = [starts(seed, epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)]
    assert len({tuple(arm) for arm in arms}) == 9
    assert len({arm[0] % 8 for arm in arms} | {min(arm) for arm in arms}) > 4  # other cuts, not only another order
    # the order of the sequences alone, wherever the cuts fall: distance from the first, on the ring
    orders = {tuple((start - arm[0]) % 4000 // 8 for start in arm) for arm in arms}
    assert len(orders) == 9
    assert starts(0, 1) == starts(0, 1)


def test_identity_names_what_decides_the_order():
    def identity(fingerprint="f", sequence_length=8, sequences=2, seed=0):
        return plan_of([40, 50], sequence_length, sequences, seed=seed, fingerprint=fingerprint).identity

    different = [
        identity(),
        identity(fingerprint="g"),
        identity(sequence_length=4),
        identity(sequences=3),
        identity(seed=1),
        identity(sequence_length=4, sequences=4),  # the same tokens per step
    ]
    assert len(set(different)) == len(different)
    assert identity() == identity()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 1, "tokens_per_step": 4}, "sequence_length is 1; it must be at least 2"),
        ({"sequence_length": 8, "tokens_per_step": 20}, "tokens_per_step is 20, not a multiple .* 8; take 16 or 24"),
        ({"sequence_length": 8, "tokens_per_step": 4}, "take 8$"),
        ({"sequence_length": 8, "tokens_per_step": 0}, "tokens_per_step is 0, .*; take 8$"),
        ({"sequence_length": 8, "tokens_per_step": -8}, "tokens_per_step is -8, .*; take 8$"),
        ({"sequence_length": 64, "tokens_per_step": 64}, "the corpus has 30 tokens, fewer than one sequence of 64"),
    ],
)
def test_lengths_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        StepPlan(np.array([0, 10, 30]), **options)


def test_micro_batches_and_what_would_fit():
    plan = plan_of([100], sequences=12)
    assert plan.micro_batches(replicas=1, micro_batch=1) == 12
    assert plan.micro_batches(replicas=2, micro_batch=3) == 2
    assert plan.micro_batches(replicas=4, micro_batch=3) == 1
    with pytest.raises(UserError, match=r"a step has 12 sequences .*; micro_batch may be \[1, 2, 3, 6\]"):
        plan.micro_batches(replicas=2, micro_batch=4)
    with pytest.raises(UserError, match=r"micro_batch may be \[1, 2, 3, 4, 6, 12\]"):
        plan.micro_batches(replicas=1, micro_batch=0)
    with pytest.raises(UserError, match="use a divisor of 12 as number of devices"):
        plan.micro_batches(replicas=5, micro_batch=1)
