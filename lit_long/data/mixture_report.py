"""Asked versus achieved: tokens of each source by document length, passes over each source, padding.

Asked is what the mixture's weights and up-sampling say over the whole run; achieved is counted from the rows that were
delivered. Documents are sorted into buckets by their whole length, wherever a sequence cuts them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.documents import DocumentSet
from lit_long.data.packing.row import Row
from lit_long.data.plan import StepPlan

_FIRST, _LAST = 10, 21  # buckets: up to 2^10 tokens, then by powers of two, the last above 2^20
BUCKETS = _LAST - _FIRST + 1
_EXACT = 1 << 24  # documents that are looked at one by one
_SAMPLE, _BLOCKS = 1 << 22, 1 << 10  # of more: so many, in even blocks


def bucket_names() -> list[str]:
    """Names of the length buckets, shortest first."""
    middle = [f"{(1 << e) // 1024}K-{(2 << e) // 1024}K" for e in range(_FIRST, _LAST - 1)]
    return ["up to 1K", *middle, f"over {(1 << (_LAST - 1)) // 1024}K"]


def bucket_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Bucket of each document length, int64."""
    exponent = np.ceil(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    return np.clip(exponent - _FIRST, 0, BUCKETS - 1)


class TokenCounts:
    """Tokens delivered so far, by part of the mixture and length bucket; the same on every rank.

    Args:
        plan: the plan that the rows come from.
        native_length: context length of the base model, if known.
    """

    def __init__(self, plan: StepPlan, native_length: int | None = None) -> None:
        self.plan, self.native_length = plan, native_length
        self.tokens = np.zeros((len(plan.parts), BUCKETS), dtype=np.int64)
        self.beyond_native = 0
        self.padding = 0
        self.steps = 0

    def add(self, rows: Sequence[Row]) -> None:
        """Count the rows of one step."""
        for row in rows:
            starts = self.plan.parts[row.part].documents.corpus.starts
            document = row.pieces[:, 0]
            whole, here = starts[document + 1] - starts[document], row.lengths
            np.add.at(self.tokens[row.part], bucket_of(whole), here)
            if self.native_length is not None:
                self.beyond_native += int(here[whole > self.native_length].sum())
            self.padding += row.length - int(here.sum())
        self.steps += 1

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "tokens": self.tokens.tolist(),
            "beyond_native": self.beyond_native,
            "padding": self.padding,
            "steps": self.steps,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`; counts of another mixture cannot be continued and stay at zero."""
        tokens = np.asarray(state["tokens"], dtype=np.int64)
        if tokens.shape == self.tokens.shape:
            self.tokens, self.steps = tokens, state["steps"]
            self.beyond_native, self.padding = state["beyond_native"], state["padding"]


@dataclass(frozen=True)
class Line:
    """One part of the mixture and one length bucket: tokens there are, asked for the run, and achieved so far."""

    source: str
    bucket: str
    available: float
    asked: float
    achieved: int


@dataclass(frozen=True)
class SourceLine:
    """One part of the mixture in whole; ``epochs`` at the end of the run, ``epochs_so_far`` by what was delivered."""

    source: str
    documents: int
    available: int
    share: float
    asked: float
    achieved: int
    achieved_share: float
    epochs: float
    epochs_so_far: float
    padding: float
    dropped_documents: int
    dropped_tokens: int


@dataclass(frozen=True)
class MixtureReport:
    """What the data of a run shall be, and what it was so far."""

    steps: int
    steps_done: int
    tokens_per_step: int
    packing: str
    native_length: int | None
    beyond_native_asked: float | None
    beyond_native_achieved: float | None
    padding_achieved: float | None
    sources: list[SourceLine]
    lines: list[Line]


def mixture_report(plan: StepPlan, steps: int, counts: TokenCounts | None = None) -> MixtureReport:
    """The report of a run of ``steps`` steps, before it (no counts) or during it."""
    counts = counts if counts is not None else TokenCounts(plan)
    planned, padding = plan.planned_tokens(steps), plan.padding()
    total, achieved_total = sum(planned), int(counts.tokens.sum())
    sources, lines, beyond = [], [], 0.0
    for number, part in enumerate(plan.parts):
        histogram, over = _histogram(part.documents, counts.native_length)
        available, done = part.documents.tokens, int(counts.tokens[number].sum())
        asked = part.share * total
        beyond += part.share * over / available
        sources.append(
            SourceLine(
                source=part.label,
                documents=len(part.documents),
                available=available,
                share=part.share,
                asked=asked,
                achieved=done,
                achieved_share=done / achieved_total if achieved_total else 0.0,
                epochs=planned[number] / available,
                epochs_so_far=done / available,
                padding=padding[number],
                dropped_documents=part.dropped[0],
                dropped_tokens=part.dropped[1],
            )
        )
        lines += [
            Line(part.label, name, float(there), asked * there / available, int(counts.tokens[number, bucket]))
            for bucket, (name, there) in enumerate(zip(bucket_names(), histogram.tolist(), strict=True))
            if there or counts.tokens[number, bucket]
        ]
    known = counts.native_length is not None
    return MixtureReport(
        steps=steps,
        steps_done=counts.steps,
        tokens_per_step=plan.tokens_per_step,
        packing=plan.packing,
        native_length=counts.native_length,
        beyond_native_asked=beyond if known else None,
        beyond_native_achieved=counts.beyond_native / achieved_total if known and achieved_total else None,
        padding_achieved=counts.padding / (achieved_total + counts.padding) if achieved_total else None,
        sources=sources,
        lines=lines,
    )


def _histogram(documents: DocumentSet, native: int | None) -> tuple[npt.NDArray[np.float64], float]:
    """Tokens by bucket, and those in documents over the native length; from an even sample of very many documents."""
    count = len(documents)
    stride, size = (_SAMPLE, _SAMPLE) if count <= _EXACT else (count // _BLOCKS, _SAMPLE // _BLOCKS)
    tokens, over, seen = np.zeros(BUCKETS), 0.0, 0
    for first in range(0, count, stride):
        lengths = np.diff(documents.starts[first : min(first + size, count) + 1])
        tokens += np.bincount(bucket_of(lengths), weights=lengths, minlength=BUCKETS)
        seen += int(lengths.sum())
        over += float(lengths[lengths > native].sum()) if native is not None else 0.0
    scale = documents.tokens / max(seen, 1)
    return tokens * scale, over * scale


def to_markdown(report: MixtureReport) -> str:
    """The report as Markdown tables."""
    total = report.steps * report.tokens_per_step
    text = [
        f"{report.steps_done:,} of {report.steps:,} steps done; {report.tokens_per_step:,} tokens per step, "
        f"{total:,} in all; packing {report.packing}"
        + (f", padding {report.padding_achieved:.2%}" if report.padding_achieved is not None else ""),
    ]
    if report.native_length is not None:
        done = report.beyond_native_achieved
        text.append(
            f"Tokens in documents longer than the native context of {report.native_length:,}: "
            f"asked {report.beyond_native_asked:.1%}" + (f", achieved {done:.1%}" if done is not None else "")
        )
    head = ["source", "documents", "tokens there are", "asked", "share", "achieved", "share", "passes of the run"]
    head += ["so far", "padding"]
    text += ["", f"| {' | '.join(head)} |", "|---" + "|---:" * 9 + "|"]
    for s in report.sources:
        text.append(
            f"| {s.source} | {s.documents:,} | {s.available:,} | {s.asked:,.0f} | {s.share:.2%} | {s.achieved:,} | "
            f"{s.achieved_share:.2%} | {s.epochs:.2f} | {s.epochs_so_far:.2f} | {s.padding:.2%} |"
        )
    dropped = [s for s in report.sources if s.dropped_documents]
    text += [
        f"\n{s.source}: {s.dropped_documents:,} documents ({s.dropped_tokens:,} tokens) are left out by their length"
        for s in dropped
    ]
    text += ["", "| source | document length | tokens there are | asked | achieved |", "|---|---|---:|---:|---:|"]
    text += [
        f"| {r.source} | {r.bucket} | {r.available:,.0f} | {r.asked:,.0f} | {r.achieved:,} |" for r in report.lines
    ]
    return "\n".join(text) + "\n"
