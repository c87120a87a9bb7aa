"""``retrieval.json``, ``retrieval.md`` and a heatmap for each model and task."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lit_long.evaluation.intervals import Estimate
from lit_long.evaluation.retrieval.grid import GridSpec
from lit_long.evaluation.retrieval.summary import KEPT_SHARE, LengthScore, by_length, effective_length, share

SCHEMA = "lit-long/retrieval/1"
Rows = Sequence[dict[str, Any]]


def write_report(results: Mapping[str, Rows], spec: GridSpec, haystack: str, output: Path) -> list[Path]:
    """Write the report's files to ``output`` and return their paths.

    Args:
        results: rows of each model by its name, the reference first.
        spec: what was asked.
        haystack: name of the text that things were hidden in.
        output: a folder.
    """
    output.mkdir(parents=True, exist_ok=True)
    files = [output / "retrieval.json", output / "retrieval.md"]
    content = to_json(results, spec, haystack)
    files[0].write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files[1].write_text(to_markdown(results, spec, haystack), encoding="utf-8")
    for name, rows in results.items():
        for task in dict.fromkeys(row["task"] for row in rows):
            files.append(plot_heatmap([r for r in rows if r["task"] == task], output / f"{name}_{task}.png", name))
    return files


def to_json(results: Mapping[str, Rows], spec: GridSpec, haystack: str) -> dict[str, Any]:
    """Plain values of everything measured."""
    return {
        "schema": SCHEMA,
        "haystack": haystack,
        "settings": {"seed": spec.seed, "samples": spec.samples, "depths": list(spec.depths), "first": spec.first},
        "kept_share": KEPT_SHARE,
        "models": {name: [_plain(score) for score in by_length(rows)] for name, rows in results.items()},
        "effective_length": {name: _effective(by_length(rows)) for name, rows in results.items()},
    }


def _plain(score: LengthScore) -> dict[str, Any]:
    exact, control = score.exact, score.control
    return {
        "task": score.task,
        "length": score.length,
        "exact": {"share": exact.value, "low": exact.low, "high": exact.high, "probes": exact.count},
        "token_accuracy": score.token_accuracy,
        "nll": score.nll,
        "gain": score.gain,
        "guessed": None if control is None else control.value,
        "rouge_l": None if score.rouge is None else {"mean": score.rouge.mean, "half_width": score.rouge.half_width},
    }


def _effective(scores: Sequence[LengthScore]) -> dict[str, int | None]:
    tasks = dict.fromkeys(score.task for score in scores)
    return {task: effective_length([score for score in scores if score.task == task]) for task in tasks}


def to_markdown(results: Mapping[str, Rows], spec: GridSpec, haystack: str) -> str:
    """The tables that a person reads."""
    lines = [
        "# Retrieval",
        "",
        f"Hidden in '{haystack}', {len(spec.depths)} depths x {spec.samples} probes a length, seed {spec.seed}. Exact: "
        "every token of the answer is the most likely one, so greedy decoding gives it; 95 % Wilson intervals. Loss: "
        "nats per token of the answer. Gain: loss with nothing hidden minus loss. Guessed: exact with nothing hidden.",
    ]
    scores = {name: by_length(rows) for name, rows in results.items()}
    for task in dict.fromkeys(score.task for each in scores.values() for score in each):
        rouge = any(score.rouge is not None for each in scores.values() for score in each if score.task == task)
        lines += [
            "",
            f"## {task}",
            "",
            "| model | length | exact | loss | gain | guessed |" + (" ROUGE-L |" if rouge else ""),
            "|---|---:|---:|---:|---:|---:|" + ("---:|" if rouge else ""),
        ]
        for name, each in scores.items():
            for score in (score for score in each if score.task == task):
                exact = f"{score.exact.value:.0%} [{score.exact.low:.0%}, {score.exact.high:.0%}]"
                gain = "-" if score.gain is None else f"{score.gain:+.2f}"
                guessed = "-" if score.control is None else f"{score.control.value:.0%}"
                line = f"| {name} | {score.length:,} | {exact} | {score.nll:.2f} | {gain} | {guessed} |"
                lines.append(line + (f" {_interval(score.rouge)} |" if rouge else ""))
    lines += [
        "",
        "## Effective context length",
        "",
        f"The longest length up to which the lower end of each interval keeps {KEPT_SHARE:.0%} of the score at the "
        "shortest length.",
        "",
        "| model | task | tokens |",
        "|---|---|---:|",
    ]
    for name, each in scores.items():
        for task, tokens in _effective(each).items():
            lines.append(f"| {name} | {task} | {'none shown' if tokens is None else f'{tokens:,}'} |")
    return "\n".join([*lines, ""])


def _interval(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    return f"{estimate.mean:.2f}" + ("" if estimate.half_width is None else f" ± {estimate.half_width:.2f}")


def plot_heatmap(rows: Rows, path: Path, title: str) -> Path:
    """Share of exact answers by length and depth, with value and number of probes in each cell."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths, depths = sorted({r["length"] for r in rows}), sorted({r["depth"] for r in rows})
    figure = Figure(figsize=(1.6 + 1.1 * len(lengths), 1.2 + 0.5 * len(depths)), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    cells = [[share(r["exact"] for r in rows if (r["length"], r["depth"]) == (n, d)) for n in lengths] for d in depths]
    axes.imshow([[cell.value for cell in line] for line in cells], vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    for y, line in enumerate(cells):
        for x, cell in enumerate(line):
            axes.text(x, y, f"{cell.value:.0%}\n{cell.hits}/{cell.count}", ha="center", va="center", fontsize=7)
    axes.set_xticks(range(len(lengths)), [f"{length:,}" for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set_xlabel("tokens of the prompt")
    axes.set_ylabel("depth of the needle")
    axes.set_title(f"{title}: {rows[0]['task']}", fontsize=10)
    figure.savefig(path, dpi=120)
    return path
