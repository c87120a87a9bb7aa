"""Evidence: what the trained models do with length; and what the formulas alone say."""

from pathlib import Path
from typing import Any

import torch
from report_tables import SOURCES, count, figure, made_by, table

from lit_long.rope.analysis import all_ones_score, granularity, granularity_asymptote

_HEAD_DIM, _BASE = 128, 10_000.0
_DISTANCES = (0, 100, 1000, 2000, 4096, 8192, 16_384, 30_000)
# factor on the base, factor on the frequencies
_METHODS = {"RoPE, base 10,000": (1.0, 1.0), "PI, 1/8": (1.0, 0.125), "ABF, base 500,000": (50.0, 1.0)}


def _frequencies(beta: float, alpha: float) -> torch.Tensor:
    exponent = torch.arange(0, _HEAD_DIM, 2, dtype=torch.float64) / _HEAD_DIM
    return alpha * (beta * _BASE) ** -exponent


def decay() -> list[str]:
    """The section of the analysis that needs no training."""
    lines = [
        "## Decay and granularity (Fig. 4, Theorem 1)",
        "",
        "No training: the attention logit of an all-ones query and key at a distance, head dimension 128, and how far "
        "apart neighbouring positions are (`lit_long.rope.analysis`).",
        "",
    ]
    rows = []
    for name, (beta, alpha) in _METHODS.items():
        frequencies = _frequencies(beta, alpha)
        far = all_ones_score(frequencies, torch.arange(28_000, 32_000)).mean()
        cells = [f"{float(all_ones_score(frequencies, distance)):.2f}" for distance in _DISTANCES]
        limit = granularity_asymptote(beta * _BASE, alpha)
        rows.append([name, *cells, f"{float(far):.2f}", f"{granularity(frequencies):.4f}", f"{limit:.4f}"])
    head = ["", *(f"D = {d:,}" for d in _DISTANCES), "mean, 28k to 32k", "granularity", "its limit"]
    lines += table(head, rows)
    return [
        *lines,
        "",
        "Plain RoPE swings around zero from about 4,096 tokens on; on average over 28,000 to 32,000 ABF still has 1.73 "
        "and PI 0.48. ABF keeps seven tenths of the granularity, PI an eighth. The position study below asks whether "
        "that shows in training.",
        "",
        "![Decay of raw attention scores](images/evidence_decay.png)",
    ]


def plot_decay(path: Path) -> None:
    """Scores by distance."""
    made, (panel,) = figure(1, width=7)
    distances = torch.arange(0, 32_768, 16)
    for name, (beta, alpha) in _METHODS.items():
        panel.plot(distances, all_ones_score(_frequencies(beta, alpha), distances), label=name, linewidth=0.8)
    panel.axhline(0, color="black", linewidth=0.6)
    panel.set_xlabel("distance (tokens)")
    panel.set_ylabel("logit of all-ones query and key")
    panel.legend(fontsize=8)
    made.savefig(path, dpi=110)


def beyond(result: dict[str, Any]) -> list[str]:
    """Sections of first sentences, power law and extrapolation."""
    asked, law, far = result["first_sentences"], result["power_law"], result["extrapolation"]
    trained, native = result["trained_length"], result["native_length"]
    lines = [
        "## First sentences (Fig. 5b)",
        "",
        f"Gain in nats per token on the sentence that the text begins with, over the same prompt without it: what the "
        f"model read at that distance. {asked['samples']} stretches of held-out books a cell: too few for "
        "intervals, so read nothing into single cells. No model of this size answers the request: exact copies and "
        "ROUGE-L are in the JSON. xPos-ABF is left out: without a key/value "
        "cache its answers would take hours.",
        "",
    ]
    rows = [
        [name, *(f"{cells[str(length)]['gain']:+.3f}" for length in asked["lengths"])]
        for name, cells in asked["models"].items()
    ]
    lines += table(["", *(f"{length:,}" for length in asked["lengths"])], rows)
    lines += ["", f"Native {native:,}, trained {trained:,} tokens; longer ones are extrapolation.", ""]
    lines += [*_power_law(law, trained), "", "## Beyond the trained length (Fig. 9)", ""]
    windows, documents = count(far["arms"])
    lines += [
        f"Loss on {windows} windows of {far['length']:,} tokens from {documents} documents, twice the trained length, "
        "nats per token:",
        "",
    ]
    rows = []
    for name, arm in far["arms"].items():
        within, out = arm["all"]["loss_within_native"]["mean"], arm["all"]["loss_beyond_native"]["mean"]
        rows.append([name, f"{within:.3f}", f"{out:.3f}", f"{out - within:+.3f}"])
    lines += table(["", f"up to {trained:,}", "beyond", "difference"], rows)
    lines += [
        "",
        "Later tokens are other text: compare arms, not columns. The paper: ABF and xPos-ABF stay flat to twice the "
        "trained length, the base model explodes beyond its own.",
        "",
        "![Extrapolation](images/evidence_extrapolation.png)",
        "",
        made_by(result),
    ]
    return lines


def _power_law(law: dict[str, Any], trained: int) -> list[str]:
    lines = [
        "## Power law of context (Fig. 1)",
        "",
        f"L(c) = (alpha / c)^beta + gamma through the losses by position of the {law['model']} model, positions 65 to "
        f"{trained:,}, {law['windows']} windows from {law['documents']} documents:",
        "",
    ]
    if "refused" in law:
        first, last = law["losses"][0], law["losses"][-1]
        return [
            *lines,
            f"**No law fits.** From the first to the last bucket the loss goes from {first:.3f} to {last:.3f}: by "
            "position it does not fall at this size and budget, and `fit_power_law` refuses. (Later positions are "
            "other text: a small rise is no harm done by context.) The paper's 7B has 25.4, 0.45 and 1.56.",
        ]
    rows = []
    for key in ("alpha", "beta", "gamma"):
        interval = law["intervals"][key] if law["intervals"] else None
        cell = f"[{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "none"
        rows.append([key, f"{law['law'][key]:.3f}", cell])
    sure = (
        "beta is determined to 0.3."
        if law["determined"]
        else ("**beta is not determined by so few documents** (its interval is wider than 0.3).")
    )
    return [
        *lines,
        *table(["", "value", "95 % interval over documents"], rows),
        "",
        f"R² {law['r2']:.3f}; by AICc the {law['best_form']} form fits best. {sure} The paper's 7B has 25.4, 0.45 and "
        "1.56. A large beta says that the gain from context is soon over.",
        "",
        "![Power law](images/evidence_power_law.png)",
    ]


def plot_power_law(result: dict[str, Any], path: Path) -> None:
    """Points with standard errors and the fitted line."""
    law = result["power_law"]
    if "refused" in law:
        return
    made, (panel,) = figure(1, width=6)
    centres = [(low * high) ** 0.5 for low, high in law["ranges"]]
    panel.errorbar(centres, law["losses"], yerr=law["errors"], fmt="o", markersize=3)
    values = law["law"]
    panel.plot(centres, [(values["alpha"] / c) ** values["beta"] + values["gamma"] for c in centres], linewidth=1)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_xlabel("position (tokens of context)")
    panel.set_ylabel("loss (nats per token)")
    made.savefig(path, dpi=110)


def plot_extrapolation(result: dict[str, Any], path: Path) -> None:
    """Loss by position of each model to twice the trained length, a panel a source."""
    made, axes = figure(len(SOURCES))
    for panel, source in zip(axes, SOURCES, strict=True):
        for name, arm in result["extrapolation"]["arms"].items():
            panel.plot(arm[source]["curve"]["position"], arm[source]["curve"]["loss"], label=name, linewidth=1)
        panel.axvline(result["trained_length"], color="black", linestyle="--", linewidth=0.8)
        panel.set_title(source)
        panel.set_xlabel("position (tokens of context)")
    axes[0].set_ylabel("loss (nats per token)")
    axes[0].legend(fontsize=8)
    made.savefig(path, dpi=110)
