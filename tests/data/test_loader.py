"""Loaders: the same sequences in the same order whatever the devices, and resuming at any step."""

import itertools
import threading

import numpy as np
import pytest
import torch

from lit_long.data import PretrainData, TokenCorpus
from lit_long.data.ledger import read_ledger
from lit_long.data.loader import Dealing, HeldOutLoader, StepLoader
from lit_long.data.packing.batch import IGNORE
from lit_long.errors import UserError
from tests.data.fakes import part, plan_of

STEPS, SEQUENCES, LENGTH = 7, 16, 32


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return TokenCorpus(corpus_dir)


@pytest.fixture(params=["concat", "best_fit"])
def make_plan(request, corpus):
    def make(micro_batch=1, length=LENGTH, sequences=SEQUENCES):
        base = plan_of([[length]], length=length, sequences=sequences, micro_batch=micro_batch)
        from lit_long.data.plan import StepPlan

        return StepPlan(
            [part(corpus)],
            spans=base.spans,
            tokens_per_step=base.tokens_per_step,
            packing=request.param,
            seed=5,
        )

    return make


def loaders(make_plan, replicas, micro_batch, steps=STEPS, quadratic=None, **options):
    return [
        StepLoader(make_plan(micro_batch), steps=steps, dealing=Dealing(rank, replicas, quadratic), **options)
        for rank in range(replicas)
    ]


def rows_of(batch):
    return [tuple(row) for row in batch["input_ids"].tolist()]


def steps_of(group):
    """Rows of each step, in the order (micro-batch, rank), and the weights that came with them."""
    accumulation = group[0].accumulation
    turns = list(zip(*group, strict=True))
    assert len(turns) % accumulation == 0
    steps = []
    for at in range(0, len(turns), accumulation):
        batches = [batch for turn in turns[at : at + accumulation] for batch in turn]
        steps.append(([row for b in batches for row in rows_of(b)], {b["step_target_weight"] for b in batches}))
    return steps


@pytest.fixture
def expected(corpus, make_plan):
    """Straight from the plan and the corpus."""
    plan, steps = make_plan(), []
    for step in range(STEPS):
        rows, weight = [], 0
        for row in plan.step(step):
            tokens = [t for d, a, b in row.pieces.tolist() for t in corpus.document(d)[a:b].tolist()]
            weight += sum(b - a - (b == len(corpus.document(d))) for d, a, b in row.pieces.tolist())
            rows.append(tuple(tokens + [0] * (LENGTH - len(tokens))))
        steps.append((rows, {float(weight)}))
    return steps


@pytest.mark.parametrize(("replicas", "micro_batch"), list(itertools.product([1, 2, 4], [1, 2, 4])))
def test_devices_and_micro_batches_only_divide_a_step(make_plan, expected, replicas, micro_batch):
    group = loaders(make_plan, replicas, micro_batch)
    assert {len(loader) for loader in group} == {STEPS * SEQUENCES // replicas // micro_batch}
    assert all(len(list(loader)) == len(loader) for loader in group)
    assert steps_of(group) == expected
    for loader in group:
        assert all(batch["input_ids"].shape == (micro_batch, LENGTH) for batch in loader)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("quadratic", [None, 1 / 100])
def test_workers_and_balance_change_nothing_that_is_learned(make_plan, expected, workers, quadratic):
    group = loaders(make_plan, 2, 2, workers=workers, quadratic=quadratic)
    for (rows, weights), (wanted, weight) in zip(steps_of(group), expected, strict=True):
        assert sorted(rows) == sorted(wanted)
        assert weights == weight
    if quadratic is None:
        assert steps_of(group) == expected


def test_weight_is_the_number_of_targets_of_the_step(make_plan):
    (loader,) = loaders(make_plan, 1, 4)
    batches = list(loader)
    for at in range(0, len(batches), loader.accumulation):
        of_step = batches[at : at + loader.accumulation]
        targets = sum(int((b["target_ids"] != IGNORE).sum()) for b in of_step)
        assert [b["step_target_weight"] for b in of_step] == [float(targets)] * loader.accumulation


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_at_every_step_also_on_other_devices(make_plan, expected, workers):
    for done in range(STEPS + 1):
        (loader,) = loaders(make_plan, 1, 4, workers=workers)
        batches = iter(loader)
        for _ in range(done * loader.accumulation):
            next(batches)
        state = loader.state_dict()
        assert state == {"step": done}  # what was delivered, not what a worker made ahead
        for replicas, micro_batch in ((1, 4), (1, 2), (4, 1)):
            group = loaders(make_plan, replicas, micro_batch, workers=workers)
            for other in group:
                other.load_state_dict(state)
                assert other.state_dict() == state
                assert len(other) == STEPS * other.accumulation  # Lightning counts on from where it was
            assert steps_of(group) == expected[done:]
            assert {other.state_dict()["step"] for other in group} == {STEPS}  # counted on, not from 0


def test_a_step_left_in_the_middle_is_run_again(make_plan, expected):
    (loader,) = loaders(make_plan, 1, 4)
    batches = iter(loader)
    for _ in range(2 * loader.accumulation + 3):
        next(batches)
    (other,) = loaders(make_plan, 1, 4)
    other.load_state_dict(loader.state_dict())
    assert steps_of([other]) == expected[2:]


def test_loading_state_into_a_used_loader_and_iterating_again(make_plan, expected):
    (loader,) = loaders(make_plan, 1, 4)
    assert steps_of([loader]) == expected
    assert loader.state_dict() == {"step": STEPS}
    assert steps_of([loader]) == expected  # again from its first step
    loader.load_state_dict({"step": 3})
    assert steps_of([loader]) == expected[3:]


def test_workers_stop_when_the_training_does(make_plan):
    (loader,) = loaders(make_plan, 1, 4, workers=2)
    batches = iter(loader)
    next(batches)
    batches.close()
    for thread in threading.enumerate():
        if thread.name.startswith("lit-long-data"):
            thread.join(timeout=10)
            assert not thread.is_alive()


def test_an_error_in_a_worker_reaches_the_training(make_plan, monkeypatch):
    (loader,) = loaders(make_plan, 1, 4, workers=2)
    monkeypatch.setattr("lit_long.data.loader.assemble", lambda *a: (_ for _ in ()).throw(OSError("stale handle")))
    with pytest.raises(OSError, match="stale handle"):
        list(loader)


@pytest.mark.parametrize("packing", ["concat", "best_fit", "single"])
def test_the_ledger_of_a_run_in_pieces_is_that_of_an_uninterrupted_one(packing, tmp_path):
    """Three parts with other world sizes, workers and micro-batches, each killed between checkpoints."""
    random = np.random.default_rng(8)
    corpora = [random.integers(1, 50, 4000), random.integers(50, 900, 300), [7, 400]]

    def run(folder, first, checkpoint, killed, replicas, micro_batch, workers, anchors):
        """Steps from `first`; the process dies in step `killed`, its last checkpoint is of `checkpoint`."""
        plans = [
            plan_of(
                corpora, [0.5, 0.4, 0.1], stages=[(32, 0.4), (128, None)], steps=60, sequences=8,
                packing=packing, seed=3, micro_batch=micro_batch,
            )
            for _ in range(replicas)
        ]  # fmt: skip
        group = [
            StepLoader(plan, steps=60, dealing=Dealing(rank, replicas, 1 / 384), workers=workers, ledger=folder)
            for rank, plan in enumerate(plans)
        ]
        for loader in group:
            loader.load_state_dict({"step": first})
            if anchors is not None:
                loader.plan.restore(anchors)
        for step, _ in zip(range(first, killed), _steps(group), strict=False):
            assert step < killed
        return plans[0].anchors(checkpoint)

    def _steps(group):
        iterators = [iter(loader) for loader in group]
        while True:
            batches = [next(iterator, None) for iterator in iterators]
            if None in batches:
                return
            weight = batches[0]["step_target_weight"]
            targets = sum(int((b["target_ids"] != IGNORE).sum()) for b in batches)
            while targets < weight:
                batches = [next(iterator) for iterator in iterators]
                targets += sum(int((b["target_ids"] != IGNORE).sum()) for b in batches)
            assert targets == weight  # the ranks' targets of a step add up to what each divides by
            yield

    run(tmp_path / "straight", 0, 0, 60, 1, 1, 0, None)
    anchors = run(tmp_path / "pieces", 0, 15, 19, 2, 2, 1, None)
    anchors = run(tmp_path / "pieces", 15, 38, 41, 4, 1, 0, anchors)
    run(tmp_path / "pieces", 38, 0, 60, 1, 4, 2, anchors)
    straight, pieces = read_ledger(tmp_path / "straight"), read_ledger(tmp_path / "pieces")
    assert straight == pieces
    assert straight.total() > 1000
    # and it can fail: one micro-batch less, or one twice, is seen
    assert read_ledger(tmp_path / "straight", steps=59) != straight
    file = min((tmp_path / "pieces").iterdir())
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:3], lines[2], *lines[3:]]))
    assert read_ledger(tmp_path / "pieces") != straight


def test_a_ledger_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"no ledger here; set data.ledger"):
        read_ledger(tmp_path)


def held_out(corpus, sequences, micro_batch, replicas, length=64):
    from lit_long.data.plan import StepPlan

    base = plan_of([[length]], length=length, sequences=1)
    plan = StepPlan([part(corpus)], spans=base.spans, tokens_per_step=length)
    return [
        HeldOutLoader(plan, sequences=sequences, micro_batch=micro_batch, dealing=Dealing(rank, replicas))
        for rank in range(replicas)
    ]


@pytest.mark.parametrize(("replicas", "micro_batch"), list(itertools.product([1, 2, 3, 5], [1, 2, 4])))
@pytest.mark.parametrize("sequences", [1, 4, 7])
def test_held_out_sequences_do_not_depend_on_devices(corpus_dir, sequences, replicas, micro_batch):
    corpus = TokenCorpus(corpus_dir, "held_out")
    stream = corpus.read(0, corpus.tokens)
    stride = corpus.tokens // sequences
    wanted = sorted(tuple(stream[i * stride : i * stride + 64].tolist()) for i in range(sequences))
    group = held_out(corpus, sequences, micro_batch, replicas)
    assert len({len(loader) for loader in group}) == 1  # collectives wait for every rank
    batches = [batch for loader in group for batch in loader]
    assert len(batches) == sum(len(loader) for loader in group)
    counted = [row for b in batches if (b["target_ids"] != IGNORE).any() for row in rows_of(b)]
    assert sorted(counted) == wanted
    assert sum(int((b["target_ids"] != IGNORE).sum()) for b in batches) == 64 * sequences
    again = [batch for loader in group for batch in loader]
    assert all(torch.equal(a["target_ids"], b["target_ids"]) for a, b in zip(batches, again, strict=True))


def test_more_sequences_than_the_held_out_text_has_room_for(corpus_dir):
    """Counting a token twice would not make the measurement better: as many as fit, apart from each other."""
    corpus = TokenCorpus(corpus_dir, "held_out")
    length = corpus.tokens // 3 - 1
    (loader,) = held_out(corpus, 16, 2, 1, length)
    begins = [int(row.pieces[0, 1]) for row in loader.rows]
    assert begins == [0, corpus.tokens // 3, 2 * (corpus.tokens // 3)]
    assert [batch["input_ids"].shape[0] for batch in loader] == [2, 1]


def data(corpus_dir, **options):
    return PretrainData(**{"corpus": corpus_dir, "sequence_length": 64, "tokens_per_step": 256} | options)


def test_pretrain_data_describes_itself_and_its_order(corpus_dir, corpus):
    mine = data(corpus_dir, micro_batch=2, seed=3, validation_split="held_out")
    about = mine.describe()
    assert about["data"] == {
        "name": "books",
        "tokens": corpus.tokens,
        "documents": 3,
        "license": "public domain",
    }
    assert (about["tokens_per_step"], about["sequence_length"], about["micro_batch"], about["seed"]) == (256, 64, 2, 3)
    data(corpus_dir, micro_batch=1, seed=3).load_state_dict(mine.state_dict())  # the micro-batch is no part of it
    for other in (
        {"seed": 4}, {"seed": 3, "tokens_per_step": 512}, {"seed": 3, "split": "held_out"},
        {"seed": 3, "packing": "best_fit"},
    ):  # fmt: skip
        with pytest.raises(UserError, match="another data order"):
            data(corpus_dir, **other).load_state_dict(mine.state_dict())
        data(corpus_dir, **other, allow_changed_data=True).load_state_dict(mine.state_dict())


def test_pretrain_data_refuses_early(corpus_dir):
    held = TokenCorpus(corpus_dir, "held_out")
    with pytest.raises(UserError, match="no token corpus with a split 'test' here"):
        data(corpus_dir, validation_split="test")
    with pytest.raises(UserError, match="validation_sequences is 0"):
        data(corpus_dir, validation_split="held_out", validation_sequences=0)
    too_long = held.tokens + 1  # fits the training text, not the held-out one
    with pytest.raises(UserError, match=rf"'held_out' of .* {held.tokens} tokens .*, fewer than one sequence"):
        data(corpus_dir, sequence_length=too_long, tokens_per_step=too_long, validation_split="held_out")
    with pytest.raises(UserError, match="not a multiple of sequence_length 64; take 256 or 320"):
        data(corpus_dir, tokens_per_step=300)
    with pytest.raises(UserError, match=r"give corpus .one folder. or mixture"):
        PretrainData(sequence_length=64)
    with pytest.raises(UserError, match=r"give sequence_length or schedule"):
        PretrainData(corpus=corpus_dir)
    with pytest.raises(UserError, match="workers is -1"):
        data(corpus_dir, workers=-1)
