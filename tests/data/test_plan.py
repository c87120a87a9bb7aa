"""The step plan by brute force: every token once a pass, shares, stages, and nothing that depends on the past."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_long.data.mixture import Part
from lit_long.data.plan import StepPlan
from lit_long.errors import UserError
from tests.data.fakes import FakeCorpus, part, plan_of, positions_of, spans_of

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def rows_of(plan, steps):
    return [row for step in range(steps) for row in plan.step(step)]


def passes(plan, number, steps, epochs):
    """Places of a part's tokens in the first passes, from the stream's beginning: stops when the passes are whole."""
    found = []
    for row in rows_of(plan, steps):
        if row.part == number:
            found += positions_of(plan, [row])[number]
    need = epochs * plan.parts[number].documents.tokens
    assert len(found) >= need, "not enough steps for the claim"
    return found


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, length=st.integers(2, 12), sequences=st.integers(1, 4), seed=st.integers(0, 9))
def test_concat_gives_every_token_once_a_pass(lengths, length, sequences, seed):
    if sum(lengths) < length:
        lengths = [*lengths, length]
    plan = plan_of([lengths], length=length, sequences=sequences, seed=seed)
    tokens = sum(lengths)
    # the slots of `length` passes end exactly where a pass ends: length * tokens is a multiple of both
    slots = tokens
    steps = -(-slots // sequences)
    rows = rows_of(plan, steps)[:slots]
    assert all(row.tokens == row.length == length for row in rows)
    assert Counter(positions_of(plan, rows)[0]) == dict.fromkeys(range(tokens), length)
    # and on the way: nothing twice before everything once, but for the sequence that reaches into the next pass
    first = [row for row in rows if row.epoch == 0]
    count = Counter(positions_of(plan, first)[0])
    assert len(count) == tokens
    assert sum(count.values()) - tokens < length


@settings(max_examples=40, deadline=None)
@given(
    lengths=LENGTHS,
    length=st.integers(2, 12),
    sequences=st.integers(1, 4),
    seed=st.integers(0, 9),
    packing=st.sampled_from(["best_fit", "single"]),
)
def test_windowed_packing_gives_every_token_once_a_pass_and_cuts_nothing_short(
    lengths, length, sequences, seed, packing
):
    plan = plan_of([lengths], length=length, sequences=sequences, seed=seed, packing=packing)
    rows = []
    step = 0
    while not rows or rows[-1].epoch < 2:
        rows += plan.step(step)
        step += 1
    for epoch in (0, 1):
        mine = [row for row in rows if row.epoch == epoch]
        assert Counter(positions_of(plan, mine)[0]) == dict.fromkeys(range(sum(lengths)), 1)
        for row in mine:
            assert 0 < row.tokens <= length
            if packing == "single":
                assert len(row.pieces) == 1
            for document, begin, end in row.pieces.tolist():
                if lengths[document] <= length:
                    assert (begin, end) == (0, lengths[document])  # not cut
                else:
                    assert begin % length == 0
                    assert end in (begin + length, lengths[document])
    orders = [[spans_of([row]) for row in rows if row.epoch == epoch] for epoch in (0, 1)]
    if len(lengths) > 3 and len(set(lengths)) > 3:
        assert orders[0] != orders[1]


@pytest.mark.parametrize("packing", ["concat", "best_fit", "single"])
def test_a_step_is_the_same_however_it_is_reached(packing):
    random = np.random.default_rng(5)
    corpora = [random.integers(1, 60, 3000), random.integers(100, 3000, 40), [7, 9]]
    options = {"stages": [(64, 0.3), (16, 0.5), (256, None)], "steps": 100, "packing": packing, "seed": 3}
    straight = plan_of(corpora, [0.5, 0.4, 0.1], **options)
    expected = [spans_of(straight.step(step)) for step in range(100)]
    for step in (99, 3, 29, 30, 31, 50, 77, 0, 12):
        assert spans_of(plan_of(corpora, [0.5, 0.4, 0.1], **options).step(step)) == expected[step]  # from nothing
        assert spans_of(straight.step(step)) == expected[step]  # going back
        resumed = plan_of(corpora, [0.5, 0.4, 0.1], **options)
        resumed.restore(straight.anchors(step))
        assert [spans_of(resumed.step(s)) for s in range(step, 100)] == expected[step:]
        assert spans_of(resumed.step(0)) == expected[0]  # anchors change the cost, never the order


@pytest.mark.parametrize("packing", ["best_fit", "single"])
def test_anchors_spare_the_packing_of_earlier_windows(packing, monkeypatch):
    from lit_long.data.packing.windows import PartStream

    corpus = np.random.default_rng(0).integers(1, 60, 50_000)
    straight = plan_of([corpus], length=64, sequences=64, packing=packing)
    expected = spans_of(straight.step(300))
    anchors = straight.anchors(300)
    packed = []
    real = PartStream._pack_documents
    monkeypatch.setattr(PartStream, "_pack_documents", lambda *a: packed.append(a[1:]) or real(*a))
    resumed = plan_of([corpus], length=64, sequences=64, packing=packing)
    resumed.restore(anchors)
    assert spans_of(resumed.step(300)) == expected
    assert len(packed) <= 3  # the fill's sample, the window, and maybe the next
    fresh = plan_of([corpus], length=64, sequences=64, packing=packing)
    packed.clear()
    fresh.step(300)
    assert len(packed) > 5


def test_a_schedule_changes_the_cuts_and_not_the_tokens():
    corpora = [np.random.default_rng(1).integers(1, 90, 500), [400] * 20]
    short, long = (
        plan_of(corpora, [0.7, 0.3], stages=stages, steps=40, seed=2)
        for stages in ([(16, 0.25), (64, 0.5), (128, None)], [(128, None)])
    )
    for step in range(40):
        length = [16, 64, 128][(step >= 10) + (step >= 20)]
        rows = short.step(step)
        assert {row.length for row in rows} == {length}
        assert len(rows) * length == short.tokens_per_step
        assert positions_of(short, rows) == positions_of(long, long.step(step))


@pytest.mark.parametrize("packing", ["best_fit", "single"])
@pytest.mark.parametrize("stages", [[(16, 0.2), (64, None)], [(64, 0.3), (8, 0.35), (32, 0.4), (64, None)]])
def test_windowed_stages_lose_and_repeat_nothing(packing, stages):
    lengths = np.random.default_rng(3).integers(1, 100, 6000)
    plan = plan_of([lengths], stages=stages, steps=400, sequences=8, packing=packing)
    rows = rows_of(plan, 400)
    assert rows[-1].epoch == 0, "the claim is about one pass"
    count = Counter(positions_of(plan, rows)[0])
    assert set(count.values()) == {1}
    # what is not reached yet is found by a longer run
    longer = plan_of([lengths], stages=stages, steps=400, sequences=8, packing=packing)
    step, more = 400, list(rows)
    while more[-1].epoch == 0:
        more += longer.step(step)
        step += 1
    first = Counter(positions_of(plan, [row for row in more if row.epoch == 0])[0])
    assert first == dict.fromkeys(range(int(lengths.sum())), 1)


@settings(max_examples=30, deadline=None)
@given(shares=st.lists(st.floats(0.001, 1), min_size=1, max_size=6), packing=st.sampled_from(["concat", "best_fit"]))
def test_shares_hold_at_every_step(shares, packing):
    shares = [share / sum(shares) for share in shares]
    corpora = [[64] * 40 for _ in shares]  # each document fills a sequence, so that a row is 64 tokens
    plan = plan_of(corpora, shares, length=64, sequences=8, packing=packing)
    done = np.zeros(len(shares))
    for step in range(60):
        for row in plan.step(step):
            done[row.part] += row.tokens
        asked = np.array(shares) * (step + 1) * plan.tokens_per_step
        assert np.abs(done - asked).max() <= 2 * 64
        assert np.allclose(plan.planned_tokens(step + 1), done)


def test_best_fit_shares_are_of_tokens_not_of_rows():
    corpora = [[33] * 1000, [64] * 1000]  # of the first, a row of 64 holds one document: half is padding
    plan = plan_of(corpora, [0.5, 0.5], length=64, sequences=16, packing="best_fit")
    rows = rows_of(plan, 40)
    tokens = [sum(row.tokens for row in rows if row.part == number) for number in (0, 1)]
    assert abs(tokens[0] / sum(tokens) - 0.5) < 0.01
    assert plan.padding() == pytest.approx([31 / 64, 0])
    assert np.allclose(plan.planned_tokens(40), tokens, rtol=0.01)


@pytest.mark.parametrize("packing", ["concat", "best_fit", "single"])
def test_targets_by_brute_force(packing):
    lengths = [5, 1, 17, 8, 30, 1, 1, 3]
    plan = plan_of([lengths], packing=packing, length=8, sequences=3)
    for step in range(20):
        expected = sum(
            end < lengths[document] or position < end - 1
            for _, document, begin, end in spans_of(plan.step(step))
            for position in range(begin, end)
        )
        assert plan.step_targets(step) == expected


def test_cuts_and_order_differ_by_pass_seed_and_source_but_not_by_the_other_sources():
    def order(plan, number=0):
        return [spans_of([row])[0][1:] for row in rows_of(plan, 30) if row.part == number]

    one = [FakeCorpus([1000, 3000], fingerprint="a")]
    orders = [order(plan_of(one, length=50, seed=seed)) for seed in (0, 1, 2)]
    assert len({tuple(o) for o in orders}) == 3
    rows = rows_of(plan_of(one, length=50, sequences=4, seed=0), 60)
    by_pass = [[spans_of([r])[0][1:] for r in rows if r.epoch == e] for e in (0, 1, 2)]
    assert len({tuple(p) for p in by_pass}) == 3
    two = plan_of([*one, [500] * 10], [0.5, 0.5], length=50, seed=0)
    together = order(two)
    assert together == orders[0][: len(together)]


def test_identity_names_what_decides_the_order():
    def identity(fingerprint="f", shares=(1.0,), selection=None, **options):
        corpora = [part(FakeCorpus([40, 50], fingerprint=fingerprint), s, name=f"s{i}") for i, s in enumerate(shares)]
        base = plan_of([[9, 9]], **options)
        return StepPlan(
            corpora, spans=base.spans, tokens_per_step=base.tokens_per_step, packing=base.packing, seed=base.seed
        ).identity

    different = [
        identity(),
        identity(fingerprint="g"),
        identity(length=4),
        identity(length=4, sequences=8),  # the same tokens per step
        identity(sequences=3),
        identity(seed=1),
        identity(packing="best_fit"),
        identity(shares=(0.5, 0.5)),
        identity(shares=(0.4, 0.6)),
        identity(stages=[(4, 0.5), (8, None)], steps=10),
        identity(stages=[(4, 0.5), (8, None)], steps=20),
    ]
    assert len(set(different)) == len(different)
    assert identity() == identity()
    # a run of one stage may be made longer
    assert identity(steps=10) == identity(steps=20)


def test_too_little_text():
    with pytest.raises(UserError, match="the data has 30 tokens, fewer than one sequence of 64"):
        plan_of([[10, 20]], length=64)
    plan = plan_of([[10], [500]], [0.1, 0.9], length=64)  # a small part goes round several times in one sequence
    small = next(row for step in range(9) for row in plan.step(step) if row.part == 0)
    assert small.tokens == 64
    assert len(small.pieces) in (7, 8)


def test_micro_batches_and_what_would_fit():
    plan = plan_of([[100]], sequences=12)
    assert plan.micro_batches(0, replicas=1) == 12
    assert plan_of([[100]], sequences=12, micro_batch=3).micro_batches(0, replicas=2) == 2
    with pytest.raises(UserError, match=r"a step has 12 sequences .*; micro_batch may be \[1, 2, 3, 6\]"):
        plan_of([[100]], sequences=12, micro_batch=4).micro_batches(0, replicas=2)
    with pytest.raises(UserError, match=r"micro_batch may be \[1, 2, 3, 4, 6, 12\]"):
        plan_of([[100]], sequences=12, micro_batch=0).micro_batches(0, replicas=1)
    with pytest.raises(UserError, match="use a divisor of 12 as number of devices"):
        plan.micro_batches(0, replicas=5)
    staged = plan_of([[1000]], stages=[(16, 0.5), (64, None)], steps=10, sequences=12, micro_batch=2)
    assert [staged.micro_batches(step, replicas=2) for step in (0, 9)] == [3, 3]  # 8 and 2 sequences at once
    assert isinstance(staged.parts[0], Part)
