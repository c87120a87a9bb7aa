"""One task's result: what it is, how it is read from the harness's dictionaries, and its file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long.evaluation.harness.suite import HarnessTask
from lit_long.evaluation.rows import RowFile


@dataclass(frozen=True, kw_only=True)
class HarnessScore:
    """One task's result.

    Attributes:
        task: what was run.
        metric: the metric's name in the harness, with its filter.
        value: the score; shares on a scale of 100.
        rows: row id -> value on the same scale, where the metric is a mean of rows; else empty.
        parts: scores of the groups inside a group (MMLU's four), on the same scale.
        shots: examples in the prompt, as the harness reports it.
        cut: rows whose prompt the harness cut to the model's window.
        versions: versions of the task and its parts.
    """

    task: HarnessTask
    metric: str
    value: float
    rows: dict[str, float]
    parts: dict[str, float]
    shots: int | None
    cut: int
    versions: dict[str, Any]


@dataclass(frozen=True)
class HarnessResult:
    """Results of the tasks that ran, and why the others did not."""

    scores: dict[str, HarnessScore] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def read_results(task: HarnessTask, found: dict[str, Any], cut: int) -> HarnessScore:
    """A task's score from the harness's results.

    Args:
        task: what was run.
        found: returned by ``simple_evaluate``, with samples.
        cut: prompts that were cut.

    Raises:
        UserError: the task has none of the metrics, or a group has no rows.
    """
    results = found["results"]
    leaves = list(found["samples"])
    metric = _metric(task, results[leaves[0]])
    name, _, kind = metric.partition(",")
    rows = {
        f"{leaf}/{sample['doc_id']}": 100 * float(sample[name])
        for leaf in leaves
        for sample in found["samples"][leaf]
        if sample["filter"] == kind and isinstance(sample.get(name), int | float)
    }
    mean = sum(rows.values()) / len(rows) if rows else None
    if len(leaves) > 1:  # a group: every row weighs the same, as the paper's and the harness's MMLU
        if mean is None:
            raise UserError(f"the group '{task.name}' has no rows for its metric '{metric}'")
        value = mean
    else:
        value = 100 * float(results[leaves[0]][metric])
        if mean is None or abs(mean - value) > 1e-6:  # no mean of rows (a perplexity): then on its own scale
            rows, value = {}, float(results[leaves[0]][metric])
    shots = found.get("n-shot", {}).get(leaves[0])
    parts = {
        part: 100 * float(scores[metric])
        for part, scores in results.items()
        if part not in (*leaves, task.name) and isinstance(scores.get(metric), int | float)
    }
    return HarnessScore(
        task=task,
        metric=metric,
        value=value,
        rows=rows,
        parts=parts,
        shots=shots,
        cut=cut,
        versions=dict(found["versions"]),
    )


def _metric(task: HarnessTask, results: dict[str, Any]) -> str:
    """The key of a task's metric in the harness's results, such as ``acc,none``."""
    keys = [key for key in results if "," in key and "_stderr" not in key and isinstance(results[key], int | float)]
    for name in task.metrics or [key.partition(",")[0] for key in keys]:
        for key in keys:
            if key.partition(",")[0] == name:
                return key
    raise UserError(f"no metric {' or '.join(task.metrics)} in the results of '{task.name}', only {keys}")


def write_score(file: Path, key: str, score: HarnessScore) -> None:
    """Write a score with its rows, whole or not at all."""
    facts = {"metric": score.metric, "value": score.value, "parts": score.parts, "shots": score.shots, "cut": score.cut}
    # Written beside and moved, so that a file that exists holds a whole task.
    partial = file.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    header = {"key": key, "task": score.task.name, "versions": score.versions, **facts}
    with RowFile(partial, header, sync=False) as store:
        for id, value in score.rows.items():
            store.add({"id": id, "value": value})
    partial.replace(file)


def read_score(file: Path, key: str, task: HarnessTask) -> HarnessScore | None:
    """A score of an earlier run, ``None`` where there is none of this key."""
    store = RowFile.read(file) if file.is_file() else None
    if store is None or store[0].get("key") != key:
        return None
    header, rows = store
    return HarnessScore(
        task=task,
        metric=header["metric"],
        value=header["value"],
        rows={row["id"]: row["value"] for row in rows},
        parts=header["parts"],
        shots=header["shots"],
        cut=header["cut"],
        versions=header["versions"],
    )
