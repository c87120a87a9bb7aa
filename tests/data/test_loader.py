"""Loaders: the same sequences in the same order whatever the devices, and resuming at any step."""

import itertools

import numpy as np
import pytest
import torch

from lit_long.data import PretrainData, StepPlan, TokenCorpus
from lit_long.data.loader import HeldOutLoader, StepLoader
from lit_long.data.packing import IGNORE
from lit_long.errors import UserError

STEPS, SEQUENCES, LENGTH = 7, 16, 32


@pytest.fixture(scope="module")
def corpus(corpus_dir):
    return TokenCorpus(corpus_dir)


@pytest.fixture(scope="module")
def plan(corpus):
    return StepPlan(corpus.starts, sequence_length=LENGTH, tokens_per_step=LENGTH * SEQUENCES, seed=5)


def loaders(corpus, plan, replicas, micro_batch, steps=STEPS):
    return [
        StepLoader(corpus, plan, steps=steps, micro_batch=micro_batch, rank=rank, replicas=replicas)
        for rank in range(replicas)
    ]


def rows_of(batch):
    return [tuple(row) for row in batch["input_ids"].tolist()]


def steps_of(group, first=0):
    """Rows of each step, in the order (micro-batch, rank), and the weights that came with them."""
    accumulation = group[0].accumulation
    turns = list(zip(*group, strict=True))
    assert len(turns) % accumulation == 0
    steps = []
    for at in range(0, len(turns), accumulation):
        batches = [batch for turn in turns[at : at + accumulation] for batch in turn]
        steps.append(([row for b in batches for row in rows_of(b)], {b["step_target_weight"] for b in batches}))
    return steps


@pytest.fixture(scope="module")
def expected(corpus, plan):
    """Straight from the plan and the stream."""
    stream = corpus.read(0, corpus.tokens)
    steps = []
    for step in range(STEPS):
        refs = plan.step(step)
        places = [(ref.start + np.arange(LENGTH)) % corpus.tokens for ref in refs]
        ends = corpus.starts[1:] - 1
        weight = sum(int((~np.isin(p, ends)).sum()) for p in places)
        steps.append(([tuple(stream[p].tolist()) for p in places], {float(weight)}))
    return steps


@pytest.mark.parametrize(("replicas", "micro_batch"), list(itertools.product([1, 2, 4], [1, 2, 4])))
def test_devices_and_micro_batches_only_divide_a_step(corpus, plan, expected, replicas, micro_batch):
    group = loaders(corpus, plan, replicas, micro_batch)
    assert {len(loader) for loader in group} == {STEPS * SEQUENCES // replicas // micro_batch}
    assert all(len(list(loader)) == len(loader) for loader in group)
    assert steps_of(group) == expected
    for loader in group:
        assert all(batch["input_ids"].shape == (micro_batch, LENGTH) for batch in loader)


def test_weight_is_the_number_of_targets_of_the_step(corpus, plan):
    (loader,) = loaders(corpus, plan, 1, 4)
    batches = list(loader)
    for at in range(0, len(batches), loader.accumulation):
        of_step = batches[at : at + loader.accumulation]
        targets = sum(int((b["target_ids"] != IGNORE).sum()) for b in of_step)
        assert [b["step_target_weight"] for b in of_step] == [float(targets)] * loader.accumulation


def test_resume_at_every_step_also_on_other_devices(corpus, plan, expected):
    for done in range(STEPS + 1):
        (loader,) = loaders(corpus, plan, 1, 4)
        batches = iter(loader)
        for _ in range(done * loader.accumulation):
            next(batches)
        state = loader.state_dict()
        assert state == {"step": done}
        for replicas, micro_batch in ((1, 4), (1, 2), (4, 1)):
            group = loaders(corpus, plan, replicas, micro_batch)
            for other in group:
                other.load_state_dict(state)
                assert other.state_dict() == state
                assert len(other) == STEPS * other.accumulation  # Lightning counts on from where it was
            assert steps_of(group) == expected[done:]
            assert {other.state_dict()["step"] for other in group} == {STEPS}  # counted on, not from 0


def test_resume_twice(corpus, plan, expected):
    state = {"step": 0}
    seen = []
    while state["step"] < STEPS:
        (loader,) = loaders(corpus, plan, 1, 8)
        loader.load_state_dict(state)
        batches = iter(loader)
        for _ in range(2 * loader.accumulation):
            seen += [rows_of(batch) for batch in [next(batches, None)] if batch]
        state = loader.state_dict()
    assert [row for batch in seen for row in batch] == [row for rows, _ in expected for row in rows]


def test_a_step_left_in_the_middle_is_run_again(corpus, plan, expected):
    (loader,) = loaders(corpus, plan, 1, 4)
    batches = iter(loader)
    for _ in range(2 * loader.accumulation + 3):
        next(batches)
    (other,) = loaders(corpus, plan, 1, 4)
    other.load_state_dict(loader.state_dict())
    assert steps_of([other]) == expected[2:]


def test_loading_state_into_a_used_loader_and_iterating_again(corpus, plan, expected):
    (loader,) = loaders(corpus, plan, 1, 4)
    assert steps_of([loader]) == expected
    assert loader.state_dict() == {"step": STEPS}
    assert steps_of([loader]) == expected  # again from its first step
    loader.load_state_dict({"step": 3})
    assert steps_of([loader]) == expected[3:]


def held_out(corpus, sequences, micro_batch, replicas, length=64):
    plan = StepPlan(corpus.starts, sequence_length=length, tokens_per_step=length)
    return [
        HeldOutLoader(corpus, plan, sequences=sequences, micro_batch=micro_batch, rank=rank, replicas=replicas)
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
    assert loader.starts == [0, corpus.tokens // 3, 2 * (corpus.tokens // 3)]
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
    for other in ({"seed": 4}, {"seed": 3, "tokens_per_step": 512}, {"seed": 3, "split": "held_out"}):
        with pytest.raises(UserError, match="another data order"):
            data(corpus_dir, **other).load_state_dict(mine.state_dict())


def test_pretrain_data_refuses_early(corpus_dir):
    held = TokenCorpus(corpus_dir, "held_out")
    with pytest.raises(UserError, match="no token corpus with a split 'test' here"):
        data(corpus_dir, validation_split="test")
    with pytest.raises(UserError, match="validation_sequences is 0"):
        data(corpus_dir, validation_split="held_out", validation_sequences=0)
    too_long = held.tokens + 1  # fits the training text, not the held-out one
    with pytest.raises(UserError, match=rf"'books/held_out': .* {held.tokens} tokens, fewer than one sequence"):
        data(corpus_dir, sequence_length=too_long, tokens_per_step=too_long, validation_split="held_out")
    with pytest.raises(UserError, match="not a multiple of sequence_length 64; take 256 or 320"):
        data(corpus_dir, tokens_per_step=300)
