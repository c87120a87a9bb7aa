"""The power law of each model of an evaluation: fitted, tabled, drawn."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from lit_long.errors import UserError
from lit_long.evaluation.battery import Evaluation, ModelResult
from lit_long.evaluation.power_law import PowerLawFit, fit_power_law
from lit_long.evaluation.power_law_points import position_points

LEAST_LENGTH = 512
"""Shorter windows span too few octaves for three parameters."""

Fits = dict[str, PowerLawFit | str]


@lru_cache(maxsize=4)
def power_laws(evaluation: Evaluation) -> Fits:
    """The fit of each model over all positions of the windows, from 64 on; or why there is none. By name."""
    if evaluation.windows.length < LEAST_LENGTH:
        return {}
    return {model.name: _fit(model) for model in evaluation.models}


def _fit(model: ModelResult) -> PowerLawFit | str:
    ranges, means = position_points(model.position.nll.numpy())
    try:
        return fit_power_law(ranges, means, clusters=model.position.windows.clusters.numpy(), resamples=500)
    except UserError as error:
        return str(error)


def plain(fit: PowerLawFit | str | None) -> dict[str, Any] | None:
    """For JSON."""
    if fit is None or isinstance(fit, str):
        return None if fit is None else {"none": fit}
    return {
        "alpha": fit.law.alpha,
        "beta": fit.law.beta,
        "gamma": fit.law.gamma,
        "intervals": {name: list(ends) for name, ends in fit.intervals.items()} if fit.intervals else None,
        "clusters": fit.clusters,
        "determined": fit.determined,
        "r2": fit.r2,
        "rmse": fit.rmse,
        "aicc": fit.aicc,
        "positions": [fit.ranges[0][0], fit.ranges[-1][1]],
    }


def markdown(fits: Fits) -> list[str]:
    """A table, with a sentence for what it does not show."""
    lines = [
        "Loss at position c as L(c) = (alpha / c)^beta + gamma, from position 64 to the end of the windows; 95 % "
        "intervals over documents. Best: the form with the lowest AICc, of this law, a - b log c and a constant.",
        "",
        "| model | alpha | beta | gamma | R² | best |",
        "|---|---:|---:|---:|---:|---|",
    ]
    notes = []
    for name, fit in fits.items():
        if isinstance(fit, str):
            lines.append(f"| {name} | - | - | - | - | - |")
            notes.append(f"{name}: {fit}.")
            continue
        lines.append(
            f"| {name} | {_value(fit, 'alpha', 1)} | {_value(fit, 'beta', 2)} | {_value(fit, 'gamma', 2)} "
            f"| {fit.r2:.3f} | {fit.best} |"
        )
        if not fit.determined:
            notes.append(f"{name}: beta is not determined by {fit.clusters} documents; take more.")
    return [*lines, *([""] if notes else []), *notes]


def _value(fit: PowerLawFit, name: str, digits: int) -> str:
    text = f"{getattr(fit.law, name):.{digits}f}"
    if fit.intervals is None:
        return text
    low, high = fit.intervals[name]
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def plot_power_laws(fits: Fits, path: Path) -> Path:
    """Points with their fitted laws, and the residuals below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for name, fit in fits.items():
        if isinstance(fit, str):
            continue
        contexts = np.array([(low * high) ** 0.5 for low, high in fit.ranges])
        losses = np.array(fit.losses)
        (line,) = upper.plot(contexts, losses, "o", markersize=4)
        smooth = np.geomspace(contexts[0], contexts[-1], 100)
        upper.plot(smooth, fit.law(smooth), color=line.get_color(), label=f"{name}: beta {fit.law.beta:.2f}")
        lower.plot(contexts, losses - fit.law(contexts), "o-", markersize=3, color=line.get_color())
    upper.set_ylabel("loss (nats per token)")
    lower.set_ylabel("residual")
    lower.set_xlabel("position (tokens of context)")
    lower.axhline(0, color="grey", linewidth=0.8)
    lower.set_xscale("log", base=2)
    lower.xaxis.set_major_formatter("{x:,.0f}")
    upper.legend()
    upper.grid(alpha=0.2)
    figure.savefig(path, dpi=150)
    return path
