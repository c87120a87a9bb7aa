"""The picture of a tokenizer report: matplotlib, imported on use, drawn by Agg without pyplot's global state."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_long.data.tokenizer_report import TokenizerReport


def plot_tokenizers(report: "TokenizerReport", path: Path) -> Path:
    """Bars for each source and tokenizer: words that the context holds, and tokens that are white space only."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = report.rows()
    sources = list(dict.fromkeys(row["source"] for row in rows))
    names = list(report.costs)
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    words, white = FigureCanvasAgg(figure).figure.subplots(1, 2)
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        own = [row for row in rows if row["tokenizer"] == name]
        places = [place + (number - (len(names) - 1) / 2) * width for place in range(len(sources))]
        words.bar(places, [row["words_in_context"] for row in own], width, label=name)
        white.bar(places, [100 * row["white_share"] for row in own], width, label=name)
    for axes, title, unit in (
        (words, f"Words in {report.length:,} tokens", "words"),
        (white, "Tokens that are white space only", "% of tokens"),
    ):
        axes.set_xticks(range(len(sources)), sources)
        axes.set_ylabel(unit)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.2, axis="y")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    words.yaxis.set_major_formatter("{x:,.0f}")
    words.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    return path
