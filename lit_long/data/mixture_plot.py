"""A picture of a mixture report: asked and achieved share of tokens by source and document length."""

from pathlib import Path

from lit_long.data.mixture_report import MixtureReport, bucket_names


def plot_mixture(report: MixtureReport, path: str | Path) -> None:
    """Write the PNG: for each source, stacked by document length, what was asked (left) and what came (right)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(7.0, 1.1 * len(report.sources) + 3), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    names = bucket_names()
    used = [name for name in names if any(line.bucket == name for line in report.lines)]
    asked_total = sum(line.asked for line in report.lines) or 1
    achieved_total = sum(line.achieved for line in report.lines) or 1
    colours = {
        name: to_hex((0.92 - 0.8 * i / max(1, len(used) - 1), 0.75 - 0.45 * i / max(1, len(used) - 1), 0.45))
        for i, name in enumerate(used)
    }
    for place, source in enumerate(report.sources):
        for offset, key, total, hatch in ((-0.2, "asked", asked_total, None), (0.2, "achieved", achieved_total, "//")):
            bottom = 0.0
            for line in (line for line in report.lines if line.source == source.source):
                height = getattr(line, key) / total
                axes.bar(
                    place + offset, height, 0.36, bottom, color=colours[line.bucket], hatch=hatch,
                    edgecolor="white", linewidth=0.5,
                )  # fmt: skip
                bottom += height
            axes.annotate(f"{bottom:.1%}", (place + offset, bottom), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(report.sources)), [s.source for s in report.sources], rotation=20, ha="right")
    axes.set_ylabel("share of tokens")
    axes.set_title(f"asked (left) and achieved (right, hatched) after {report.steps_done:,} of {report.steps:,} steps")
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=colours[name], label=name) for name in used]
    axes.legend(handles=handles, title="document length", fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
