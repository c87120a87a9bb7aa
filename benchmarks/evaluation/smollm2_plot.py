"""The figure and the tables of docs/evaluation_smollm2.md, from what the commands of that page wrote.

    python benchmarks/evaluation/smollm2_plot.py LOSS RETRIEVAL [--output docs/images]

LOSS and RETRIEVAL are the folders of ``lit-long evaluate`` and ``lit-long retrieve``; arms that are not finished are
left out, of loss and of retrieval each for itself. Prints the tables as Markdown; with ``generate.jsonl`` of
``agree.py`` in RETRIEVAL also how many prompts agree.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path

from lit_long.evaluation.raw_store import read_tensors
from lit_long.evaluation.retrieval.summary import by_length

COLOURS = {"none": "tab:red", "pi": "tab:blue", "abf": "tab:green"}
NATIVE = 8192
EDGES = (0, 64, 256, 1024, 4096, 8192, 10_240, 12_288, 14_336, 16_384)


def losses(folder):
    """Raw losses [windows, positions] of each finished arm."""
    files = sorted((folder / "raw").glob("*.safetensors"))
    return {file.stem: read_tensors(file)["nll"].numpy() for file in files if file.stem in COLOURS}


def scores(folder):
    """Scores by length of each arm."""
    found = {}
    for file in sorted((folder / "raw").glob("*.jsonl")):
        if file.stem in COLOURS and (rows := [json.loads(line) for line in file.read_text().splitlines()[1:]]):
            found[file.stem] = by_length(rows)
    return found


def draw(nll, found, path):
    """Loss by position on the left, loss and exact share of answers on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = FigureCanvasAgg(figure).figure.subplots(1, 3)
    for arm, values in nll.items():
        edges = [round(64 * 2 ** (i / 4)) for i in range(33)]
        means = [values[:, a:b].mean() for a, b in pairwise(edges)]
        left.plot([(a * b) ** 0.5 for a, b in pairwise(edges)], means, color=COLOURS[arm], label=arm)
    left.set_ylabel("loss (nats per token)")
    left.set_xlabel("position (tokens of context)")
    for arm, each in found.items():
        lengths = [score.length for score in each]
        middle.plot(lengths, [score.nll for score in each], "o-", color=COLOURS[arm], label=arm)
        low = [score.exact.value - score.exact.low for score in each]
        high = [score.exact.high - score.exact.value for score in each]
        shares = [score.exact.value for score in each]
        right.errorbar(lengths, shares, [low, high], fmt="o-", capsize=3, color=COLOURS[arm], label=arm)
    middle.set_ylabel("loss of the answers (nats per token)")
    right.set_ylabel("exact answers, 95 % Wilson interval")
    for axes in (middle, right):
        axes.set_xlabel("tokens of the prompt")
    for axes in (left, middle, right):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.axvline(NATIVE, color="black", linestyle="--", linewidth=1)
        axes.grid(alpha=0.2)
        axes.legend()
    figure.savefig(path, dpi=90)


def tables(nll, found):
    """Markdown of both."""
    lines = ["| positions | " + " | ".join(nll) + " |", "|---|" + "---:|" * len(nll)]
    for a, b in pairwise(EDGES):
        cells = [" / ".join(f"{window[a:b].mean():.3f}" for window in values) for values in nll.values()]
        lines.append(f"| {a + 1:,}-{b:,} | " + " | ".join(cells) + " |")
    lengths = sorted({score.length for each in found.values() for score in each})
    lines += ["", "| tokens | " + " | ".join(found) + " |", "|---:|" + "---|" * len(found)]
    for length in lengths:
        cells = []
        for each in found.values():
            score = next((score for score in each if score.length == length), None)
            cells.append("" if score is None else f"{score.exact.hits}/{score.exact.count}, {score.nll:.2f}")
        lines.append(f"| {length:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("loss", type=Path)
    parser.add_argument("retrieval", type=Path)
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    nll, found = losses(args.loss), scores(args.retrieval)
    draw(nll, found, args.output / "smollm2_positions.png")
    print(tables(nll, found))
    if (file := args.retrieval / "generate.jsonl").exists():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        same = sum(row["generate"] == row["one_reading"] for row in rows)
        lengths = sorted({row["length"] for row in rows})
        arms, lengths = (sorted({row[key] for row in rows}) for key in ("arm", "length"))
        print(f"\ngenerate: {same} of {len(rows)} prompts agree; arms {arms}, lengths {lengths}")


if __name__ == "__main__":
    main()
