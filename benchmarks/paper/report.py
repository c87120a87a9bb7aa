"""Writes docs/evidence.md and its plots from the studies' result files; a study without one is called not run.

python benchmarks/paper/report.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report_gpu import gpu, plot_gpu
from report_lengths import beyond, decay, plot_decay, plot_extrapolation, plot_power_law
from report_longer import longer
from report_positions import plot_positions, positions
from report_runs import curriculum, data_mix, plot_curriculum
from report_sft import sft
from report_tables import IMAGES, RESULTS, ROOT

Section = Callable[[dict[str, Any]], list[str]]
Plot = Callable[[dict[str, Any], Path], None]
# result file -> what it is called where it is missing, its section, its plots
STUDIES: dict[str, tuple[str, Section, dict[str, Plot]]] = {
    "positions": ("Positions (Table 5)", positions, {"positions": plot_positions}),
    "longer": ("Five times the tokens, with a control", longer, {}),
    "beyond": (
        "First sentences, power law, extrapolation (Figs. 1, 5b, 9)",
        beyond,
        {"power_law": plot_power_law, "extrapolation": plot_extrapolation},
    ),
    "data_mix": ("Data mixes (Table 7)", data_mix, {}),
    "curriculum": ("Curriculum (Tables 10, 11, Fig. 6)", curriculum, {"curriculum": plot_curriculum}),
    "sft": ("Instruction tuning (Table 9)", sft, {}),
}


def evidence() -> list[str]:
    """The lines of docs/evidence.md."""
    lines = [
        "# Evidence",
        "",
        "The paper's studies at small scale, on real text, with this repository's own commands "
        "(`python benchmarks/paper/run.py TEXTS` runs all of them). A small model is no 7B model: tested is that the "
        "parts do what they claim, and which of the paper's findings show at this size.",
        "",
        *decay(),
        "",
    ]
    for name, (title, section, _) in STUDIES.items():
        file = RESULTS / f"paper_{name}.json"
        if file.exists():
            lines += [*section(json.loads(file.read_text())), ""]
        else:
            lines += [f"## {title}", "", "Not run.", ""]
    lines += gpu(RESULTS)
    return lines


def main() -> None:
    plot_decay(IMAGES / "evidence_decay.png")
    for name, (_, _, plots) in STUDIES.items():
        file = RESULTS / f"paper_{name}.json"
        for image, plot in plots.items() if file.exists() else ():
            plot(json.loads(file.read_text()), IMAGES / f"evidence_{image}.png")
    plot_gpu(RESULTS, IMAGES / "evidence_gpu_positions.png")
    (ROOT / "docs" / "evidence.md").write_text("\n".join(evidence()))


if __name__ == "__main__":
    main()
