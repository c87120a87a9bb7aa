"""Methods side by side on one model's geometry, without training: decay of scores, granularity (paper, Fig. 4).

``lit-long rope`` prints and draws it. Numbers first (:func:`compare_methods`), then Markdown and plots of them.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long.rope.analysis import all_ones_score, granularity
from lit_long.rope.base import RopeScaling
from lit_long.rope.geometry import RopeGeometry


@dataclass(frozen=True, kw_only=True)
class MethodAnalysis:
    """A method on a geometry at a length.

    Attributes:
        name: as in the registry.
        rope_parameters: what it writes into a transformers config; None where it cannot take the model to that length.
        refused: why not; None where it can.
        scores: ``distance -> all-ones attention score`` (:func:`lit_long.rope.analysis.all_ones_score`).
        far_score: its mean over the last eighth of the length.
        granularity: sine distance of neighbouring positions.
        longest_wavelength: in tokens; distances beyond it are not told apart by any single frequency.
        unseen: frequencies that turn less than once within the native length and further at the new one: angles that
            the model has not seen in pretraining.
        attention_factor: scale of cos and sin.
    """

    name: str
    rope_parameters: dict[str, Any] | None = None
    refused: str | None = None
    scores: dict[int, float] | None = None
    far_score: float = math.nan
    granularity: float = math.nan
    longest_wavelength: float = math.nan
    unseen: int = 0
    attention_factor: float = 1.0


def distances(length: int) -> list[int]:
    """Distances of the table: 0, and powers of two times 64 up to ``length``."""
    found = [0]
    while (step := 64 * 4 ** (len(found) - 1)) < length:
        found.append(step)
    return [*found, length]


def compare_methods(methods: list[RopeScaling], geometry: RopeGeometry, length: int) -> list[MethodAnalysis]:
    """Each method at ``length`` tokens; one that refuses says why.

    Args:
        methods: from :func:`lit_long.rope.rope_method`.
        geometry: of the untouched model.
        length: wanted context in tokens.

    Raises:
        UserError: every method refuses.
    """
    found = [_analyse(method, geometry, length) for method in methods]
    if all(one.refused for one in found):
        raise UserError(f"no method takes this model to {length:,} tokens: {found[0].refused}")
    return found


def _analyse(method: RopeScaling, geometry: RopeGeometry, length: int) -> MethodAnalysis:
    try:
        parameters = method.rope_parameters(geometry, length)
        frequencies, decay = method.inv_freq(geometry, length), method.decay(geometry, length)
    except UserError as error:
        return MethodAnalysis(name=method.name, refused=str(error))
    far = torch.arange(length - length // 8, length)
    turns_now = frequencies * length
    turns_then = geometry.inv_freq() * geometry.native_length
    return MethodAnalysis(
        name=method.name,
        rope_parameters=parameters,
        scores={d: float(all_ones_score(frequencies, d, decay)) for d in distances(length)},
        far_score=float(all_ones_score(frequencies, far, decay).mean()),
        granularity=granularity(frequencies),
        longest_wavelength=2 * math.pi / float(frequencies.min()),
        unseen=int(((turns_then < 2 * math.pi) & (turns_now > turns_then * (1 + 1e-9))).sum()),
        attention_factor=method.attention_factor(geometry, length),
    )


def as_json(found: list[MethodAnalysis], geometry: RopeGeometry, length: int) -> dict[str, Any]:
    """All numbers, plain; a method that refuses has its reason and no numbers."""
    rows = [
        {"name": one.name, "refused": one.refused}
        if one.refused
        else {k: v for k, v in vars(one).items() if k != "refused"}
        for one in found
    ]
    about = {"dim": geometry.dim, "base": geometry.base, "native_length": geometry.native_length}
    return {"geometry": about | {"rope_type": geometry.rope_type}, "length": length, "methods": rows}


def markdown(found: list[MethodAnalysis], geometry: RopeGeometry, length: int) -> str:
    """The tables."""
    head = [f"D = {d:,}" for d in distances(length)] + ["far", "granularity", "longest wavelength", "unseen"]
    lines = [
        f"# Positions at {length:,} tokens",
        "",
        f"Rotary dimensions {geometry.dim}, base {geometry.base:,.0f}, native length {geometry.native_length:,}, "
        f"rope type {geometry.rope_type}.",
        "",
        f"| method | {' | '.join(head)} |",
        "|---|" + "---:|" * len(head),
    ]
    for one in found:
        if one.scores is not None:
            cells = [f"{score:.2f}" for score in one.scores.values()]
            cells += [f"{one.far_score:.2f}", f"{one.granularity:.4f}", f"{one.longest_wavelength:,.0f}"]
            lines.append(f"| {one.name} | {' | '.join([*cells, f'{one.unseen} of {geometry.dim // 2}'])} |")
    lines += [
        "",
        "D: attention score of an all-ones query and key at that distance (Llama 2 Long, Fig. 4); far: its mean over "
        "the last eighth of the length. Granularity: how far apart neighbouring positions are (Theorem 1; larger is "
        "better). Longest wavelength in tokens. Unseen: frequencies that did not turn once in the native length and "
        "turn further now.",
        "",
        "In config.json (`rope_parameters`):",
        "",
    ]
    for one in found:
        text = f"cannot: {one.refused}" if one.refused else f"`{json.dumps(one.rope_parameters)}`"
        lines.append(f"- {one.name}: {text}")
    return "\n".join([*lines, ""])


def plot(
    found: list[MethodAnalysis], methods: list[RopeScaling], geometry: RopeGeometry, length: int, path: Path
) -> None:
    """Scores by distance, smoothed over 1/64 of the length, and granularity, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[3, 1])
    places = torch.arange(0, length, max(1, length // 4096))
    able = [(one, method) for one, method in zip(found, methods, strict=True) if not one.refused]
    for one, method in able:
        scores = all_ones_score(method.inv_freq(geometry, length), places, method.decay(geometry, length))
        width = max(1, len(places) // 64)
        smooth = torch.nn.functional.avg_pool1d(scores[None, None], width, stride=1, padding=width // 2)[
            0, 0, : len(places)
        ]
        left.plot(places, smooth, label=one.name, linewidth=1)
    left.axhline(0, color="black", linewidth=0.6)
    left.axvline(geometry.native_length, color="black", linestyle="--", linewidth=0.8)
    left.set_xlabel("distance (tokens); dashed: native length")
    left.set_ylabel("score of all-ones query and key")
    left.legend(fontsize=8)
    right.barh([one.name for one, _ in able], [one.granularity for one, _ in able])
    right.invert_yaxis()
    right.set_xlabel("granularity")
    figure.savefig(path, dpi=110)
