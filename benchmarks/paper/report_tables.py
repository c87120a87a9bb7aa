"""Small pieces that the sections of the evidence report share."""

from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
SOURCES = ("books", "manuals", "code")


def signed(value: dict[str, Any]) -> str:
    """A difference with its interval."""
    if value["low"] is None:
        return f"{value['mean']:+.3f}"
    return f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def says(value: dict[str, Any]) -> str:
    """Whether a difference is below 0, as its interval says."""
    if value["low"] is None or value["low"] <= 0 <= value["high"]:
        return "not shown"
    return "yes" if value["high"] < 0 else "no, worse"


def table(head: list[str], rows: list[list[str]], *, text: int = 1) -> list[str]:
    """A Markdown table whose first ``text`` columns are text, and whose others are numbers."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * text + "---:|" * (len(head) - text)]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def count(arms: dict[str, Any]) -> tuple[int, int]:
    """Windows, and documents, that the numbers of a study stand on."""
    first = next(iter(arms.values()))
    return sum(first[source]["windows"] for source in SOURCES), first["all"]["loss"]["documents"]


def made_by(result: dict[str, Any], seconds: dict[str, float] | None = None) -> str:
    """Command, machine and versions; seconds of training where they were noted."""
    text = f"`{result['command']}`; {result['machine']}, torch {result['versions']['torch']}"
    if seconds:
        total = sum(seconds.values())
        text += f"; training took {total / 60:,.0f} minutes in all, on a shared machine"
    return f"{text}."


def figure(panels: int, width: float = 12, height: float = 3.6) -> Any:
    """A matplotlib figure without a screen, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    axes = made.subplots(1, panels)
    return made, (axes if panels > 1 else [axes])


def plot_by_position(arms: dict[str, Any], path: Path, *, native: int | None = None) -> None:
    """Loss by position of each arm, a panel a source; ``native`` is marked."""
    made, axes = figure(len(SOURCES))
    for panel, source in zip(axes, SOURCES, strict=True):
        for name, arm in arms.items():
            panel.plot(arm[source]["curve"]["position"], arm[source]["curve"]["loss"], label=name, linewidth=1)
        if native is not None:
            panel.axvline(native, color="black", linestyle="--", linewidth=0.8)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:,.0f}")
        panel.set_title(source)
        panel.set_xlabel("position (tokens of context)")
    axes[0].set_ylabel("loss (nats per token)")
    axes[0].legend(fontsize=8)
    made.savefig(path, dpi=110)
