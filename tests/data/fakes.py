"""A corpus in memory whose tokens say where they are: the number of each token in the stream."""

from pathlib import Path

import numpy as np

from lit_long.data.documents import DocumentSet, Selection
from lit_long.data.loader import assemble
from lit_long.data.mixture import Part
from lit_long.data.packing.row import Row
from lit_long.data.plan import StepPlan
from lit_long.data.schedule import LengthSchedule, Stage


class FakeCorpus:
    def __init__(self, lengths, sources=None, fingerprint="f"):
        self.path, self.fingerprint, self.name = Path("nowhere"), fingerprint, "fake"
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.sources = np.asarray(sources if sources is not None else np.zeros(len(lengths)), dtype=np.uint16)
        self.source_names = [f"s{i}" for i in range(int(self.sources.max(initial=0)) + 1)]
        self.info = {"tokenizer": {"eos_token_id": 0}, "license": None}
        self.tokens = int(self.starts[-1])

    def span(self, document, begin, end):
        start = int(self.starts[document])
        assert 0 <= begin <= end <= self.starts[document + 1] - start
        return np.arange(start + begin, start + end, dtype=np.int32)

    def length(self, document):
        return int(self.starts[document + 1] - self.starts[document])


def part(corpus, share=1.0, name="all", bucket="all", selection=None):
    return Part(name, bucket, DocumentSet(corpus, selection or Selection()), share)


def plan_of(corpora, shares=None, *, length=8, sequences=4, stages=None, steps=-1, micro_batch=1, **options):
    """A plan over FakeCorpus (or lists of lengths) at one length, or over stages [(length, until), ...]."""
    corpora = [c if isinstance(c, FakeCorpus) else FakeCorpus(c, fingerprint=str(i)) for i, c in enumerate(corpora)]
    shares = shares or [1 / len(corpora)] * len(corpora)
    parts = [part(c, s, name=f"s{i}") for i, (c, s) in enumerate(zip(corpora, shares, strict=True))]
    schedule = LengthSchedule(tuple(Stage(sequence_length=n, until=u) for n, u in (stages or [(length, None)])))
    tokens = schedule.longest * sequences
    spans = schedule.spans(steps=steps, tokens_per_step=tokens, micro_batch=micro_batch)
    return StepPlan(parts, spans=spans, tokens_per_step=tokens, **options)


def spans_of(rows):
    """(part, document, begin, end) of every piece."""
    return [(row.part, *piece) for row in rows for piece in row.pieces.tolist()]


def positions_of(plan, rows):
    """Every token's place in its part's corpus, as {part: list}."""
    found = {number: [] for number in range(len(plan.parts))}
    for number, document, begin, end in spans_of(rows):
        start = int(plan.parts[number].documents.corpus.starts[document])
        found[number] += range(start + begin, start + end)
    return found


def packed_at(corpus, starts, length, **options):
    """A packed batch of a corpus' sequences that begin at ``starts`` of its stream, taken as a ring."""
    parts = [part(corpus)]
    spans = LengthSchedule((Stage(sequence_length=length),)).spans(steps=-1, tokens_per_step=length)
    plan = StepPlan(parts, spans=spans, tokens_per_step=length)
    rows = [Row(0, 0, length, parts[0].documents.pieces(start, length)) for start in starts]
    return assemble(plan, rows, **options)
