"""The figures of docs/concepts.md, each computed by the part of lit-long that it is about.

    python benchmarks/figures/concepts.py [--output docs/images]

Half a minute on one core; the pictures are the same every time.
"""

import argparse
import io
import math
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaModel

from lit_long.attention import use_packed_attention
from lit_long.data import LengthSchedule, Stage
from lit_long.parallel.layout import plan_layout
from lit_long.rope import ABF, Linear, NoScaling, RopeGeometry, RopeScaling, XPosABF
from lit_long.rope.analysis import all_ones_score, granularity

matplotlib.use("Agg")
import matplotlib.pyplot as plt

LLAMA2 = RopeGeometry(dim=128, base=10_000, native_length=4096)
LONG = 32_768
METHODS: dict[str, RopeScaling] = {
    "base 10,000": NoScaling(),
    "PI": Linear(),
    "ABF, base 500,000": ABF(),
    "xPos-ABF": XPosABF(),
}
COLOURS = dict(zip(METHODS, ("tab:green", "tab:red", "tab:orange", "tab:blue"), strict=True))


def turns() -> plt.Figure:
    """Full turns that each frequency makes: within the native length (seen in training), and within the long one."""
    figure, axes = plt.subplots(figsize=(7.5, 3.6))
    pairs = np.arange(LLAMA2.dim // 2)
    plain, raised = (
        METHODS[name].inv_freq(LLAMA2, LONG) / (2 * math.pi) for name in ("base 10,000", "ABF, base 500,000")
    )
    axes.semilogy(pairs, plain * LLAMA2.native_length, color="gray", label="base 10,000 up to 4,096: what training saw")
    axes.semilogy(pairs, plain * LONG, color="tab:green", label="base 10,000 up to 32,768")
    axes.semilogy(pairs, raised * LONG, color="tab:orange", label="base 500,000 up to 32,768")
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.annotate("one full turn", (0.5, 1.25), fontsize=8)
    axes.set(xlabel="pair of dimensions (fast to slow)", ylabel="turns", xlim=(0, len(pairs) - 1))
    axes.legend(fontsize=8)
    return figure


def decay() -> plt.Figure:
    """Attention score by distance and granularity of positions, before any training (the paper's Fig. 4, Theorem 1)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), width_ratios=(2.6, 1), layout="constrained")
    distances = torch.arange(0, LONG, 32)
    for name, method in METHODS.items():
        frequencies = method.inv_freq(LLAMA2, LONG)
        scores = all_ones_score(frequencies, distances, method.decay(LLAMA2, LONG))
        left.plot(distances, scores, linewidth=0.7, color=COLOURS[name], label=name)
    left.set(xlabel="distance in tokens", ylabel="score of all-ones query and key", ylim=(-3, 8), xlim=(0, LONG))
    left.legend(fontsize=8, loc="upper right")
    names = [name for name in METHODS if name != "xPos-ABF"]
    values = [granularity(METHODS[name].inv_freq(LLAMA2, LONG)) for name in names]
    bars = right.bar(range(len(names)), values, color=[COLOURS[name] for name in names])
    right.bar_label(bars, [f"{value:.3f}" for value in values], fontsize=8)
    right.set_xticks(range(len(names)), ["base\n10,000", "PI", "ABF"], fontsize=8)
    right.set(ylabel="granularity", ylim=(0, 0.13))
    return figure


def packing() -> plt.Figure:
    """Who sees whom in a row of three documents, by gradients through a model with packed attention."""
    lengths = (14, 22, 12)
    size = sum(lengths)
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=8)
    model = use_packed_attention(LlamaModel(config))
    restart = torch.cat([torch.arange(length) for length in lengths])[None]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.7))
    for axis, positions, title in (
        (axes[0], torch.arange(size)[None], "one text (document_mask: false)"),
        (axes[1], restart, "packed documents (default)"),
    ):
        inputs = torch.randn(1, size, config.hidden_size, requires_grad=True)
        states = model(inputs_embeds=inputs, position_ids=positions).last_hidden_state[0]
        seen = torch.stack(
            [torch.autograd.grad(state.sum(), inputs, retain_graph=True)[0][0].abs().sum(-1) > 0 for state in states]
        )
        axis.imshow(seen, cmap="Blues", vmin=0, vmax=1.4)
        axis.set(title=title, xlabel="token that is read", ylabel="token that reads")
        axis.title.set_fontsize(10)
    return figure


def exchange() -> plt.Figure:
    """Which of four context-parallel ranks has which tokens of a row, and how many pairs of tokens that is."""
    figure, axes = plt.subplots(figsize=(8, 2.6))
    rows = {"one document": (0, 32_768), "three documents": (0, 5_000, 22_000, 32_768)}
    for place, cuts in enumerate(rows.values()):
        layout = plan_layout(cuts, ranks=4)
        for rank, blocks in enumerate(layout.blocks):
            spans = [(int(block) * layout.block, layout.block) for block in blocks]
            axes.broken_barh(spans, (-place - 0.35, 0.7), color=f"C{rank}", label=f"rank {rank}" if not place else None)
        for cut in cuts[1:-1]:
            axes.plot((cut, cut), (-place - 0.45, -place + 0.45), color="black")
        pairs = layout.pairs()
        axes.text(33_200, -place, f"busiest rank:\n{pairs.max() / pairs.mean():.3f} x mean", fontsize=8, va="center")
    axes.set_yticks([-place for place in range(len(rows))], rows)
    axes.set(xlabel="token of the row (black: a document begins)", xlim=(0, 38_500))
    axes.set_xticks(range(0, 32_769, 8_192))
    axes.legend(fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.45, 1.25))
    return figure


def stages() -> plt.Figure:
    """Sequences of a step at a constant number of tokens, with the length switched at 40 % of the run."""
    schedule = LengthSchedule((Stage(sequence_length=4096, until=0.4), Stage(sequence_length=LONG)))
    spans = schedule.spans(steps=1000, tokens_per_step=4_194_304)
    figure, axes = plt.subplots(figsize=(7.5, 2.4))
    for span in spans:
        width = span.stop_step - span.first_step
        axes.bar(span.first_step, span.sequence_length, width=width, align="edge", edgecolor="white")
        text = f"{span.sequences_per_step:,} sequences\nof {span.sequence_length:,} tokens a step"
        axes.text(span.first_step + width / 2, max(span.sequence_length / 2, 7_000), text, ha="center", fontsize=9)
    axes.set(xlabel="optimizer step", ylabel="sequence length", xlim=(0, 1000))
    return figure


FIGURES = {"turns": turns, "decay": decay, "packing": packing, "exchange": exchange, "stages": stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[2] / "docs" / "images")
    folder = parser.parse_args().output
    for name, draw in FIGURES.items():
        figure = draw()
        pixels = io.BytesIO()
        figure.savefig(pixels, dpi=100, bbox_inches="tight")
        Image.open(pixels).convert("RGB").quantize(64).save(folder / f"concepts_{name}.png", optimize=True)
        plt.close(figure)


if __name__ == "__main__":
    main()
