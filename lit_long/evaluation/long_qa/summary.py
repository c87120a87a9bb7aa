"""From rows to a score with its 95 % interval, and tables of models beside each other and the paper's numbers.

Questions on one document share its difficulty, so the document is the unit: Student's t over documents for means, and
for ROUGE-geo, which is no mean, a percentile bootstrap over documents. With fewer than five documents the unit is the
question, as in loss by position: the interval then speaks for these documents only, and the report says so.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_long.evaluation.intervals import cluster_estimate
from lit_long.evaluation.long_qa.metrics import combine
from lit_long.evaluation.long_qa.paper import reference
from lit_long.evaluation.long_qa.run import Asked

_RESAMPLES = 1000
_FEWEST_DOCUMENTS = 5
Row = dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval, ``None`` where one document leaves nothing to estimate from."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """A task at one cap for one model."""

    task: str
    metric: str
    split: str
    cap: int
    score: Interval | None
    """On a scale of 100; ``None`` where the labels are hidden."""
    gold_nll: Interval | None
    """Mean loss of the gold answers in nats per token."""
    questions: int
    available: int
    documents: int
    interval_unit: str
    """``document``, or ``question`` where there are too few documents."""
    cut: int
    """Prompts that lost tokens."""
    unstopped: int
    """Answers that ended at the limit of their length."""
    paper: dict[str, float]
    paper_source: str


def summarise_task(asked: Asked) -> TaskScore:
    """The score of a task's rows."""
    rows, task = asked.rows, asked.task
    scored = [row for row in rows if "scores" in row]
    with_gold = [row for row in rows if "gold_nll" in row]
    source, numbers = reference(task.name, asked.cap)
    return TaskScore(
        task=task.name,
        metric=task.metric,
        split=asked.split,
        cap=asked.cap,
        score=_score(scored, task.metric) if scored else None,
        gold_nll=_mean(with_gold, lambda row: row["gold_nll"]) if with_gold else None,
        questions=len(rows),
        available=asked.available,
        documents=len({row["document"] for row in rows}),
        interval_unit="document" if _many_documents(rows) else "question",
        cut=sum(row["cut_tokens"] > 0 for row in rows),
        unstopped=sum(not row["stopped"] for row in rows),
        paper=numbers,
        paper_source=source,
    )


def difference(first: Asked, second: Asked) -> tuple[Interval | None, Interval | None]:
    """Score and gold loss of ``second`` minus ``first`` on the questions both were asked, paired by question."""
    ours, theirs = ({row["id"]: row for row in asked.rows} for asked in (second, first))
    pairs = [(ours[id], theirs[id]) for id in ours if id in theirs]
    scored = [(a, b) for a, b in pairs if "scores" in a and "scores" in b]
    golds = [(a, b) for a, b in pairs if "gold_nll" in a and "gold_nll" in b]
    metric = first.task.metric

    def gap(sample: Sequence[tuple[Row, Row]]) -> float:
        return combine(metric, [a["scores"] for a, _ in sample]) - combine(metric, [b["scores"] for _, b in sample])

    if metric == "rouge_geo":
        score = _bootstrap(scored, gap) if scored else None
    else:
        score = _mean(scored, lambda p: p[0]["scores"][metric] - p[1]["scores"][metric]) if scored else None
    nll = _mean(golds, lambda p: p[0]["gold_nll"] - p[1]["gold_nll"]) if golds else None
    return score, nll


def _score(rows: Sequence[Row], metric: str) -> Interval:
    if metric == "rouge_geo":
        return _bootstrap(rows, lambda s: combine(metric, [row["scores"] for row in s]))
    return _mean(rows, lambda row: row["scores"][metric])


def _mean(items: Sequence[Any], value: Callable[[Any], float]) -> Interval:
    numbers: dict[str, int] = {}
    clusters = [numbers.setdefault(unit, len(numbers)) for unit in _units(items)]
    estimate = cluster_estimate(torch.tensor([value(item) for item in items]).double(), torch.tensor(clusters))
    return Interval(estimate.mean, estimate.low, estimate.high)


def _many_documents(items: Sequence[Any]) -> bool:
    return len({_row(item)["document"] for item in items}) >= _FEWEST_DOCUMENTS


def _units(items: Sequence[Any]) -> list[str]:
    """What each item is independent of others by: its document, or itself where there are few documents."""
    column = "document" if _many_documents(items) else "id"
    return [str(_row(item)[column]) for item in items]


def _row(item: Any) -> Row:
    row: Row = item[0] if isinstance(item, tuple) else item
    return row


def _bootstrap(items: Sequence[Any], value: Callable[[Sequence[Any]], float], seed: int = 0) -> Interval:
    groups: dict[str, list[Any]] = {}
    for item, unit in zip(items, _units(items), strict=True):
        groups.setdefault(unit, []).append(item)
    if len(groups) < 2:
        return Interval(value(items), None, None)
    names, draw = list(groups), random.Random(seed)
    values = sorted(
        value([item for name in draw.choices(names, k=len(names)) for item in groups[name]]) for _ in range(_RESAMPLES)
    )
    return Interval(value(items), values[round(0.025 * _RESAMPLES)], values[round(0.975 * _RESAMPLES) - 1])


def markdown(models: Mapping[str, Sequence[TaskScore | None]]) -> list[str]:
    """Lines of Markdown: one row a task and cap, two columns a model, then the paper's own models.

    The models' scores stand in the same order of tasks and caps; ``None`` where one was not run.
    """
    header = ["task", "metric", "cap", "questions", *(f"{n} {what}" for n in models for what in ("score", "gold loss"))]
    lines = ["| " + " | ".join([*header, "paper"]) + " |", "|" + "---|" * (len(header) + 1)]
    for scores in zip(*models.values(), strict=True):
        first = next(score for score in scores if score is not None)
        of = "" if first.questions == first.available else f" of {first.available:,}"
        cells = [first.task, first.metric, f"{first.cap:,}", f"{first.questions:,}{of}"]
        for score in scores:
            cells += [show(score.score, 1), show(score.gold_nll, 3)] if score else ["not run", ""]
        paper = "; ".join(f"{model} {value}" for model, value in list(first.paper.items())[:4])
        lines.append("| " + " | ".join([*cells, f"{paper} ({first.paper_source})" if paper else ""]) + " |")
    few = {s.task for scores in models.values() for s in scores if s and s.interval_unit == "question"}
    if few:
        names = ", ".join(sorted(few))
        lines += ["", f"Fewer than five documents, so intervals are over questions and speak for these only: {names}."]
    every = [(name, score) for name, scores in models.items() for score in scores if score]
    cut = [f"{name}, {s.task} @ {s.cap:,}: {s.cut:,}" for name, s in every if s.cut]
    if cut:
        lines += ["", f"Prompts that were cut to their cap: {'; '.join(cut)}."]
    long = [f"{name}, {s.task} @ {s.cap:,}: {s.unstopped:,}" for name, s in every if s.unstopped]
    if long:
        lines += ["", f"Answers that ended at their longest length: {'; '.join(long)}."]
    return lines


def show(interval: Interval | None, digits: int) -> str:
    """``12.3 [10.0, 14.6]``, empty for ``None``."""
    if interval is None:
        return ""
    ends = "" if interval.low is None else f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    return f"{interval.value:.{digits}f}{ends}"
