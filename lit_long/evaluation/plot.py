"""Plots of an evaluation as PNG files: matplotlib, imported on use, drawn by Agg without pyplot's global state."""

from pathlib import Path

from lit_long.evaluation.battery import Evaluation
from lit_long.evaluation.power_law_report import plot_power_laws, power_laws


def write_plots(evaluation: Evaluation, output: Path) -> list[Path]:
    """Write ``loss_by_position.png``, ``context_gain.png`` and ``power_law.png``, as far as measured; return paths."""
    output.mkdir(parents=True, exist_ok=True)
    files = [plot_loss_by_position(evaluation, output / "loss_by_position.png")]
    if any(model.context for model in evaluation.models):
        files.append(plot_context_gain(evaluation, output / "context_gain.png"))
    fits = power_laws(evaluation)
    if any(not isinstance(fit, str) for fit in fits.values()):
        files.append(plot_power_laws(fits, output / "power_law.png"))
    return files


def plot_loss_by_position(evaluation: Evaluation, path: Path) -> Path:
    """Smoothed loss against position (log2), one line and 95 % band per model, lines at native and window length."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    for model in evaluation.models:
        curve = model.position.curve
        (line,) = axes.plot(curve.positions, curve.loss, label=model.name)
        if curve.low is not None and curve.high is not None:
            axes.fill_between(curve.positions, curve.low, curve.high, color=line.get_color(), alpha=0.15, linewidth=0)
    length = evaluation.windows.length
    axes.axvline(evaluation.native_length, color="black", linestyle="--", linewidth=1, label="native length")
    axes.axvline(length, color="grey", linestyle=":", linewidth=1, label="window length")
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("position (tokens of context)")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(f"{evaluation.windows.ids.shape[0]} windows of {length:,} tokens, '{evaluation.windows.corpus}'")
    axes.grid(alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=150)
    return path


def plot_context_gain(evaluation: Evaluation, path: Path) -> Path:
    """Loss saved on the same last tokens against the length of the context, with 95 % bars, one line per model."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    for model in evaluation.models:
        if model.context is None:
            continue
        means = [gain.mean for gain in model.context.gain]
        bars = [gain.half_width or 0.0 for gain in model.context.gain]
        axes.errorbar(model.context.plan.contexts, means, yerr=bars, marker="o", capsize=3, label=model.name)
    axes.axvline(evaluation.native_length, color="black", linestyle="--", linewidth=1, label="native length")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("tokens of context")
    axes.set_ylabel("loss saved over the shortest context (nats per token)")
    axes.set_title("Same last tokens, longer contexts (up is better)")
    axes.grid(alpha=0.2)
    axes.legend()
    figure.savefig(path, dpi=150)
    return path
