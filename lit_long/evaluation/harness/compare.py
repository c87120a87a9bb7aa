"""What the harness's scores say: means of the paper's groups, and the regression against a base model.

Two models answer the same rows, so the difference is taken row by row; its interval is several times narrower than that
of two separate scores. The interval of a group's mean treats its tasks as independent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from lit_long.evaluation.harness.score import HarnessResult, HarnessScore
from lit_long.evaluation.harness.suite import PAPER_SUITE, paper_group, paper_task
from lit_long.evaluation.intervals import cluster_estimate


@dataclass(frozen=True)
class Score:
    """A score with the half width of its 95 % interval, ``None`` where there are no rows to estimate it from."""

    value: float
    half_width: float | None


def task_score(score: HarnessScore) -> Score:
    """A task's score with the interval over its rows."""
    return Score(score.value, _half(list(score.rows.values())))


def task_difference(base: HarnessScore, other: HarnessScore) -> Score | None:
    """``other`` minus ``base``, by row where both have the same rows; ``None`` for different metrics."""
    if base.metric != other.metric:
        return None
    if base.rows and base.rows.keys() == other.rows.keys():
        gaps = [other.rows[id] - base.rows[id] for id in base.rows]
        return Score(sum(gaps) / len(gaps), _half(gaps))
    return Score(other.value - base.value, None)


def group_scores(scores: Mapping[str, Score]) -> dict[str, Score]:
    """Means of the paper's groups, from task name -> score (or difference); only groups whose tasks are all there."""
    groups: dict[str, list[str]] = {}
    for task in PAPER_SUITE:
        groups.setdefault(task.group, []).append(task.name)
    return {
        group: _mean([scores[name] for name in names])
        for group, names in groups.items()
        if all(name in scores for name in names)
    }


def _mean(scores: Sequence[Score]) -> Score:
    halves = [score.half_width for score in scores]
    half = None if None in halves else math.hypot(*(h for h in halves if h is not None)) / len(scores)
    return Score(sum(score.value for score in scores) / len(scores), half)


def _half(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    return cluster_estimate(torch.tensor(values).double(), torch.arange(len(values))).half_width


def markdown(results: Mapping[str, HarnessResult]) -> list[str]:
    """Lines of Markdown: tasks and groups of every model; the first model is the base of the differences."""
    names = list(results)
    base = results[names[0]]
    tasks = list(dict.fromkeys(task for result in results.values() for task in result.scores))
    header = [
        "task",
        "metric",
        "shots",
        *names,
        *(f"{name} - {names[0]}" for name in names[1:]),
        "Llama 2 Long (paper)",
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for task in tasks:
        found = [result.scores.get(task) for result in results.values()]
        first = next(score for score in found if score)
        differences = [
            task_difference(base.scores[task], score) if score and task in base.scores else None for score in found[1:]
        ]
        cells = [first.task.label or task, first.metric, str(first.shots)]
        cells += [_show(task_score(score)) if score else "" for score in found]
        cells += [_show(gap, signed=True) for gap in differences]
        lines.append("| " + " | ".join([*cells, _paper(paper_task(first.task.label))]) + " |")
        for part in first.parts:
            values = ["" if not s or part not in s.parts else f"{s.parts[part]:.1f}" for s in found]
            cells = [f"- {part}", first.metric, str(first.shots), *values, *("" for _ in names[1:])]
            lines.append("| " + " | ".join([*cells, _paper(paper_task(part))]) + " |")
    levels = [group_scores({t: task_score(s) for t, s in result.scores.items()}) for result in results.values()]
    gaps = [
        group_scores(
            {
                t: gap
                for t, s in result.scores.items()
                if t in base.scores and (gap := task_difference(base.scores[t], s)) is not None
            }
        )
        for result in list(results.values())[1:]
    ]
    for group in dict.fromkeys(group for level in levels for group in level):
        cells = [f"**{group}**", "mean", ""]
        cells += [_show(level.get(group)) for level in levels] + [_show(gap.get(group), signed=True) for gap in gaps]
        long = {k: v for k, v in paper_group(group).items() if "Long" in k}
        lines.append("| " + " | ".join([*cells, _paper(long)]) + " |")
    for name, result in results.items():
        lines += [f"\n{name}, {task}: not run ({reason})." for task, reason in result.failed.items()]
        cut = [f"{task} {score.cut:,}" for task, score in result.scores.items() if score.cut]
        if cut:
            lines += ["", f"{name}: prompts that the harness cut to the model's window: {', '.join(cut)}."]
    return lines


def _paper(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name.rpartition(' ')[2]} {value}" for name, value in values.items())


def _show(score: Score | None, signed: bool = False) -> str:
    if score is None:
        return ""
    half = "" if score.half_width is None else f" ± {score.half_width:.1f}"
    return f"{score.value:{'+' if signed else ''}.1f}{half}"
