"""``answers.json``, ``answers.md`` and ``answers.png``."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_long.evaluation.chats.summary import ChatScore
from lit_long.evaluation.intervals import Estimate

SCHEMA = "lit-long/answers/1"


def write_report(
    scores: Sequence[ChatScore], settings: dict[str, Any], output: Path
) -> tuple[dict[str, Any], list[Path]]:
    """Write the report; returns its plain values and its files."""
    output.mkdir(parents=True, exist_ok=True)
    files = [output / f"answers.{ending}" for ending in ("json", "md", "png")]
    content = {"schema": SCHEMA, "settings": settings, "scores": [asdict(score) for score in scores]}
    files[0].write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files[1].write_text(to_markdown(scores, settings) + "\n", encoding="utf-8")
    _plot(scores, files[2])
    return content, files


def to_markdown(scores: Sequence[ChatScore], settings: dict[str, Any]) -> str:
    """The tables that a person reads."""
    keep = settings["kept_input_tokens"]
    lines = [
        "# Answers",
        "",
        f"Loss of the right answers of the split {settings['split']}, in nats per token, every example counting the "
        "same; 95 % intervals. Change: to the first model on the same examples. "
        + (
            f"Gain: loss with the longest input cut to {keep:,} tokens (half from each end) minus loss with all of it; "
            "a gain that stays while the loss falls is better style, not better reading. "
            if keep is not None
            else ""
        )
        + "Greedy: answers that greedy decoding would write, every token of them.",
    ]
    for source in dict.fromkeys(score.source for score in scores):
        own = [score for score in scores if score.source == source]
        lines += [
            "",
            f"## {source}",
            "",
            f"{own[0].examples:,} examples on {own[0].groups:,} documents; intervals over "
            + ("documents." if own[0].unit == "document" else "examples: too few documents to speak for others."),
            "",
            "| model | loss | change | gain from the document | change of gain | greedy |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for score in own:
            numbers = (score.nll, score.change, score.gain, score.gain_change)
            cells = [score.model, *map(_cell, numbers), f"{score.greedy:,} of {score.examples:,}"]
            lines.append(f"| {' | '.join(cells)} |")
        if keep is not None and own[0].with_control < own[0].examples:
            lines.append(
                f"\nGain over the {own[0].with_control:,} examples with an input of more than {keep:,} tokens."
            )
    return "\n".join(lines)


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.mean:.3f}" + ("" if estimate.half_width is None else f" ± {estimate.half_width:.3f}")


def _plot(scores: Sequence[ChatScore], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.subplots(1, 2)
    sources = list(dict.fromkeys(score.source for score in scores))
    models = list(dict.fromkeys(score.model for score in scores))
    width = 0.8 / len(models)
    panels = (("loss of the right answers", "nll"), ("gain from the document", "gain"))
    for panel, (title, what) in zip(axes, panels, strict=True):
        for number, model in enumerate(models):
            for place, source in enumerate(sources):
                [score] = [s for s in scores if (s.model, s.source) == (model, source)]
                found: Estimate | None = getattr(score, what)
                if found is None:
                    continue
                x = place + (number - (len(models) - 1) / 2) * width
                color, label = f"C{number % 10}", model if place == 0 else None
                panel.bar(x, found.mean, width, yerr=found.half_width, capsize=3, color=color, label=label)
        panel.set_xticks(range(len(sources)), sources)
        panel.set_title(title, fontsize=10)
        panel.set_ylabel("nats per token")
        panel.grid(alpha=0.2, axis="y")
        panel.set_axisbelow(True)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
