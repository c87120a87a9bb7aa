"""A plan over 10^12 tokens: any step costs the same as the first, and memory does not follow the tokens seen."""

import tracemalloc

import numpy as np
import pytest

from lit_long.data.packing.windows import PartStream
from tests.data.fakes import FakeCorpus, plan_of, spans_of

DOCUMENTS = 200_000


@pytest.fixture(scope="module")
def corpus():
    lengths = np.random.default_rng(0).lognormal(15, 0.8, DOCUMENTS).astype(np.int64)
    lengths = lengths * (10**12 // int(lengths.sum())) + 1
    corpus = FakeCorpus(lengths)
    assert corpus.tokens > 9e11
    return corpus


def test_a_far_step_of_concat_is_arithmetic(corpus):
    plan = plan_of([corpus], length=32_768, sequences=128)
    tracemalloc.start()
    far = 250_000  # 1.05 * 10^12 tokens seen: the second pass
    rows = plan.step(far)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6
    assert {row.epoch for row in rows} == {1}
    assert all(row.tokens == 32_768 for row in rows)
    places = [(d, a) for _, d, a, _ in spans_of(rows)]
    assert len(set(places)) == len(places)
    resumed = plan_of([corpus], length=32_768, sequences=128)
    resumed.restore(plan.anchors(far))
    assert spans_of(resumed.step(far)) == spans_of(rows)


def test_a_far_step_of_best_fit_packs_one_window(corpus, monkeypatch):
    """Half the corpus was seen; the anchors say where, and nothing before is packed again."""
    plan = plan_of([corpus], length=32_768, sequences=128, packing="best_fit")
    stream = plan._order.streams[0][0]
    half = DOCUMENTS // 2 // stream.window * stream.window
    far = 120_000
    anchors = [[[far * 128 - 5, 0, half, 0]]]
    packed = []
    real = PartStream._pack_documents
    monkeypatch.setattr(PartStream, "_pack_documents", lambda *a: packed.append(a[1:]) or real(*a))
    plan.restore(anchors)
    rows = plan.step(far)
    assert packed == [(0, half)]
    assert len(rows) == 128
    assert plan.anchors(far) == anchors
