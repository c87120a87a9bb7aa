"""``benchmarks.json`` with every number, ``benchmarks.md`` with the tables, a plot of scores over prompt caps."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_long.evaluation.benchmarks.plan import Options
from lit_long.evaluation.benchmarks.run import ModelBenchmarks
from lit_long.evaluation.harness import compare
from lit_long.evaluation.long_qa import summary
from lit_long.evaluation.long_qa.summary import Interval, TaskScore, difference, summarise_task
from lit_long.evaluation.safety import run as safety

SCHEMA = "lit-long/benchmarks/1"


def write_report(
    results: Sequence[ModelBenchmarks], options: Options, output: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Write the report's files to ``output``; return the JSON content and the paths."""
    output.mkdir(parents=True, exist_ok=True)
    content = to_json(results, options)
    files = [output / "benchmarks.json", output / "benchmarks.md"]
    files[0].write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files[1].write_text(to_markdown(results), encoding="utf-8")
    plot = _plot(results, output / "long_tasks.png")
    return content, [*files, *([plot] if plot else []), *(file for result in results for file in result.files)]


def to_json(results: Sequence[ModelBenchmarks], options: Options) -> dict[str, Any]:
    """Plain values of everything that was run."""
    settings = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(options).items() if k != "device"}
    base = results[0]
    return {
        "schema": SCHEMA,
        "settings": settings,
        "models": [_model(result) for result in results],
        "differences": [_differences(base, other) for other in results[1:]],
    }


def _model(result: ModelBenchmarks) -> dict[str, Any]:
    scores = {name: compare.task_score(score) for name, score in result.short.scores.items()}
    return {
        "name": result.name,
        "path": result.path,
        "source": json.loads(json.dumps(result.source, default=str)),
        "long": [asdict(summarise_task(asked)) | {"prompt": asked.task.prompt} for asked in result.long.values()],
        "short": {
            name: asdict(scores[name])
            | {"metric": score.metric, "shots": score.shots, "rows": len(score.rows), "parts": score.parts}
            for name, score in result.short.scores.items()
        },
        "short_groups": {name: asdict(score) for name, score in compare.group_scores(scores).items()},
        "safety": [
            {"name": s.name, "judge": s.judge, "score": asdict(s.score), "prompts": s.prompts, "available": s.available}
            | {"groups": {name: asdict(estimate) for name, estimate in s.groups.items()}}
            for s in result.safety
        ],
        "red_team_replies": len(result.red_team),
        "not_run": result.failed | result.short.failed,
    }


def _differences(base: ModelBenchmarks, other: ModelBenchmarks) -> dict[str, Any]:
    long = []
    for (task, cap), asked in other.long.items():
        if (task, cap) in base.long:
            gaps = difference(base.long[task, cap], asked)
            long.append({"task": task, "cap": cap, "score": _plain(gaps[0]), "gold_nll": _plain(gaps[1])})
    short = {}
    for name, score in other.short.scores.items():
        gap = compare.task_difference(base.short.scores[name], score) if name in base.short.scores else None
        short[name] = None if gap is None else asdict(gap)
    return {"model": other.name, "base": base.name, "long": long, "short": short}


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else asdict(interval)


def to_markdown(results: Sequence[ModelBenchmarks]) -> str:
    """The page that people read."""
    lines = ["# Benchmarks", "", "Values with 95 % intervals; the unit is the document for long tasks, else the row."]
    places = list(dict.fromkeys(place for result in results for place in result.long))
    if places:
        lines += ["", "## Long questions", "", *summary.markdown(_columns(results, places))]
        lines += _long_differences(results)
    if any(result.short.scores for result in results):
        lines += ["", "## Short tasks (lm-evaluation-harness)", ""]
        lines += compare.markdown({result.name: result.short for result in results})
    if any(name.startswith("truthfulqa") for result in results for name in result.short.scores):
        lines += ["", safety.truthfulqa_note()]
    if any(result.safety for result in results):
        lines += ["", "## Safety", "", *safety.markdown({result.name: result.safety for result in results})]
    for result in results:
        if result.red_team:
            lines += [
                "",
                f"Red team, {result.name}: {len(result.red_team)} replies in `{result.files[-1].name}`, to read.",
            ]
    failed = [(result.name, what, why) for result in results for what, why in result.failed.items()]
    if failed:
        lines += ["", "## Not run", "", *(f"- {name}, {what}: {why}" for name, what, why in failed)]
    return "\n".join([*lines, ""])


def _columns(
    results: Sequence[ModelBenchmarks], places: Sequence[tuple[str, int]]
) -> dict[str, list[TaskScore | None]]:
    return {
        result.name: [summarise_task(result.long[place]) if place in result.long else None for place in places]
        for result in results
    }


def _long_differences(results: Sequence[ModelBenchmarks]) -> list[str]:
    rows = []
    for other in results[1:]:
        for (task, cap), asked in other.long.items():
            if (task, cap) in results[0].long:
                score, nll = difference(results[0].long[task, cap], asked)
                cells = [f"{other.name} - {results[0].name}", task, f"{cap:,}"]
                rows.append("| " + " | ".join([*cells, summary.show(score, 1), summary.show(nll, 3)]) + " |")
    if not rows:
        return []
    header = ["| difference on the same questions | task | cap | score | gold loss |", "|---|---|---|---|---|"]
    return ["", *header, *rows]


def _plot(results: Sequence[ModelBenchmarks], path: Path) -> Path | None:
    """Score against prompt cap, a panel a task, as the paper's Fig. 2; only where there are two caps."""
    tasks = list(dict.fromkeys(task for result in results for task, _ in result.long))
    if not tasks or len({cap for result in results for _, cap in result.long}) < 2:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(tasks), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for result in results:
            scores = [summarise_task(asked) for (name, _), asked in result.long.items() if name == task]
            known = [(s.cap, s.score) for s in scores if s.score is not None]
            if not known:  # hidden labels
                continue
            caps, values = [cap for cap, _ in known], [score.value for _, score in known]
            axis.plot(caps, values, marker="o", label=result.name)
            if all(score.low is not None and score.high is not None for _, score in known):
                axis.fill_between(caps, [s.low for _, s in known], [s.high for _, s in known], alpha=0.2)
        metric = next(asked.task.metric for r in results for (name, _), asked in r.long.items() if name == task)
        axis.set(title=task, xlabel="longest prompt, tokens", ylabel=metric)
        axis.set_xscale("log", base=2)
    if figure.axes[0].lines:
        figure.axes[0].legend()
    figure.savefig(path, dpi=120)
    return path
