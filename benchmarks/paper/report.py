"""Writes docs/evidence.md and its plots from the studies' result files; a study without one is called not run.

python benchmarks/paper/report.py
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from report_lengths import beyond, decay, plot_decay, plot_extrapolation, plot_power_law
from report_longer import longer
from report_positions import plot_positions, positions
from report_runs import curriculum, data_mix, plot_curriculum
from report_sft import plot_sft, sft
from report_tables import IMAGES, RESULTS, ROOT

Section = Callable[[dict[str, Any]], list[str]]
Plot = Callable[[dict[str, Any], Path], None]
# result file -> what it is called where it is missing, its section, its plots
STUDIES: dict[str, tuple[str, Section, dict[str, Plot]]] = {
    "positions": ("Positions (Table 5)", positions, {"positions": plot_positions}),
    "longer": ("Ten times the tokens, with a control", longer, {}),
    "beyond": (
        "First sentences, power law, extrapolation (Figs. 1, 5b, 9)",
        beyond,
        {"power_law": plot_power_law, "extrapolation": plot_extrapolation},
    ),
    "data_mix": ("Data mixes (Table 7)", data_mix, {}),
    "curriculum": ("Curriculum (Tables 10, 11, Fig. 6)", curriculum, {"curriculum": plot_curriculum}),
    "sft": ("Instruction tuning (Table 9)", sft, {"sft": plot_sft}),
}


def main() -> None:
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
    plot_decay(IMAGES / "evidence_decay.png")
    for name, (title, section, plots) in STUDIES.items():
        file = RESULTS / f"paper_{name}.json"
        if not file.exists():
            lines += [f"## {title}", "", "Not run.", ""]
            continue
        result = json.loads(file.read_text())
        lines += [*section(result), ""]
        for image, plot in plots.items():
            plot(result, IMAGES / f"evidence_{image}.png")
    lines += [
        "## Not run",
        "",
        "On a GPU (SmolLM2-135M from 8,192 to 32,768 tokens on 50 million tokens; a model of 30 to 100 million "
        "parameters from scratch): none was lent. The recipes are there (`recipes/smollm2_135m_32k.yaml`, "
        "`recipes/ablations/`).",
        "",
    ]
    (ROOT / "docs" / "evidence.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
