"""Writes docs/evidence.md and its plots from the studies' result files.

python benchmarks/paper/report.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
SOURCES = ("books", "manuals", "code")
STEPS, TOKENS = 20, 163_840  # benchmarks/paper/recipes/extend.yaml


def _signed(value: dict[str, Any]) -> str:
    if value["low"] is None:
        return f"{value['mean']:+.3f}"
    return f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def _says(value: dict[str, Any]) -> str:
    if value["low"] is None or value["low"] <= 0 <= value["high"]:
        return "not shown"
    return "yes" if value["high"] < 0 else "no, worse"


def positions(result: dict[str, Any]) -> list[str]:
    """The section of the position study."""
    arms, native, length = result["arms"], result["native_length"], result["length"]
    seeds = "one seed" if result["seeds"] == 1 else f"{result['seeds']} seeds"
    windows = sum(arms["base"][source]["windows"] for source in SOURCES)
    documents = arms["base"]["all"]["loss"]["documents"]
    lines = [
        "## Positions (Table 5, Fig. 5)",
        "",
        f"A base of 3 million parameters, trained from scratch at {native} tokens with RoPE base 10,000 on real books, "
        f"manuals and code, is continued at {length:,} tokens by each method, on the same tokens ({seeds}). Held out: "
        f"documents whose id's hash is in the lowest tenth. {windows} windows of {length:,} tokens from "
        f"{documents} documents; 95 % intervals over documents of differences on the same tokens.",
        "",
        f"Loss at {length:,} tokens, nats per token:",
        "",
        "| | " + " | ".join(SOURCES) + f" | positions up to {native} | beyond |",
        "|---|" + "---:|" * (len(SOURCES) + 2),
    ]
    for name, arm in arms.items():
        cells = [f"{arm[source]['loss']['mean']:.3f}" for source in SOURCES]
        cells += [f"{arm['all'][key]['mean']:.3f}" for key in ("loss_within_native", "loss_beyond_native")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "The claim that matters: does the extended model, given the whole window, predict its last tokens better "
        "than the base model with the best truncation of it, and better than itself truncated? Below 0, it does.",
        "",
        "| arm | minus the base's best truncation | better? | minus its own best truncation | better? |",
        "|---|---:|---|---:|---|",
    ]
    for name, arm in arms.items():
        if name != "base":
            base, own = arm["all"]["full_minus_base_best"], arm["all"]["full_minus_own_best"]
            lines.append(f"| {name} | {_signed(base)} | {_says(base)} | {_signed(own)} | {_says(own)} |")
    lines += ["", *_reading(arms), ""]
    lines += [
        "![Loss by position](images/evidence_positions.png)",
        "",
        f"`{result['command']}`; {result['machine']}, torch {result['versions']['torch']}; seconds of training, on a "
        "machine that was busy with other work: "
        + ", ".join(f"{name} {seconds:,.0f}" for name, seconds in result["training_seconds"].items())
        + ".",
    ]
    return lines


def _reading(arms: dict[str, Any]) -> list[str]:
    """What the tables say, from the numbers alone; and the likely reason."""
    extended = {name: arm for name, arm in arms.items() if name != "base"}
    order = sorted(extended, key=lambda name: extended[name]["all"]["loss"]["mean"])
    winners = [name for name, arm in extended.items() if _says(arm["all"]["full_minus_base_best"]) == "yes"]
    first = f"By loss at the extended length: {' < '.join(order)}."
    if winners:
        return [f"{first} {', '.join(winners)} beat the base model on its best truncation."]
    return [
        f"{first} No arm beats the base model on its best truncation: each saw {TOKENS:,} tokens in {STEPS} steps. "
        "Where the loss inside of the native length is above the base's, it has not come back yet. The order is "
        "evidence about the methods; that extension pays is not shown at this budget."
    ]


def plot_positions(result: dict[str, Any], path: Path) -> None:
    """Loss by position of each arm, a panel a source."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, source in zip(figure.subplots(1, len(SOURCES)), SOURCES, strict=True):
        for name, arm in result["arms"].items():
            curve = arm[source]["curve"]
            axes.plot(curve["position"], curve["loss"], label=name, linewidth=1)
        axes.axvline(result["native_length"], color="black", linestyle="--", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_title(source)
        axes.set_xlabel("position (tokens of context)")
    figure.axes[0].set_ylabel("loss (nats per token)")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    lines = [
        "# Evidence",
        "",
        "The paper's studies at small scale, on real text, with this repository's own commands. A small model is no 7B "
        "model: tested is that the parts do what they claim, and which of the paper's findings show at this size.",
        "",
    ]
    file = RESULTS / "paper_positions.json"
    if file.exists():
        result = json.loads(file.read_text())
        plot_positions(result, IMAGES / "evidence_positions.png")
        lines += positions(result)
    (ROOT / "docs" / "evidence.md").write_text("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
