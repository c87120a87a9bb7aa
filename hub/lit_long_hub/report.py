"""Takes the evaluation over into the card: the tables of ``lit-long evaluate``'s report.md and the plots it shows.

Tables are taken as they are, with the heading they stand under; only local paths in them are cut to their last name.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from lit_long.errors import UserError
from lit_long_hub.atomic_file import copy_file
from lit_long_hub.evaluation_results import EvaluationResults, read_results
from lit_long_hub.privacy import without_paths

PLOT_FOLDER = "evaluation"
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+\.png)\)", re.IGNORECASE)
_HEADING = re.compile(r"#{1,6}\s+(.*)")


@dataclass(frozen=True)
class EvaluationReport:
    """What a card shows of an evaluation."""

    markdown: str
    """Headings, tables and images, ready to stand below a second-level heading."""

    plots: dict[str, Path]
    """Name of every plot in the release's ``evaluation`` folder, and the file it is copied from."""

    results: EvaluationResults = field(default_factory=EvaluationResults)
    """The numbers of the model that is exported, from report.json."""


def read_report(path: str | Path, checkpoint: str | Path) -> EvaluationReport:
    """Take tables and plots out of a Markdown report.

    Args:
        path: The ``report.md`` that ``lit-long evaluate`` wrote.
        checkpoint: What is exported: report.json, beside report.md, has its numbers.

    Raises:
        UserError: No such file, a file without tables, or a plot that is missing or lies outside the report's folder.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"No report at {path}. Give the report.md that `lit-long evaluate` wrote.")
    blocks: list[list[str]] = []
    plots: dict[str, Path] = {}
    heading, table = "", []
    for line in [*path.read_text().splitlines(), ""]:
        if line.lstrip().startswith("|"):
            table.append(without_paths(line.strip()))
            continue
        if table:
            blocks.append([*([f"### {heading}", ""] if heading else []), *table])
            heading, table = "", []
        if match := _HEADING.fullmatch(line.strip()):
            heading = without_paths(match[1])
        for text, target in _IMAGE.findall(line):
            name = Path(target).name
            plots[name] = _plot(path.parent, target)
            blocks.append([f"![{without_paths(text)}]({PLOT_FOLDER}/{name})"])
    if not any("|" in line for block in blocks for line in block):
        raise UserError(f"{path} has no Markdown table to show in the card. Give the report.md of `lit-long evaluate`.")
    results = read_results(path, Path(checkpoint))
    return EvaluationReport("\n\n".join("\n".join(block) for block in blocks), plots, results)


def _plot(folder: Path, target: str) -> Path:
    plot = (folder / target).resolve()
    if not plot.is_relative_to(folder.resolve()) or not plot.is_file():
        raise UserError(f"The report shows {target}, which is not a file in {folder}.")
    return plot


def copy_plots(report: EvaluationReport, folder: Path) -> list[str]:
    """Copy the plots into ``folder/evaluation``; returns their paths within ``folder``."""
    if report.plots:
        (folder / PLOT_FOLDER).mkdir(exist_ok=True)
    for name, path in report.plots.items():
        copy_file(path, folder / PLOT_FOLDER / name)
    return [f"{PLOT_FOLDER}/{name}" for name in report.plots]
