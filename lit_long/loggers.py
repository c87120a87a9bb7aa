"""A metrics file that survives a resume: one JSON line per optimizer step, in ``metrics.jsonl``.

Lightning's CSVLogger deletes the file of an earlier run in the same folder; here the lines before the step that a run
resumes at are kept, and later ones (of steps that will be trained again) are dropped.
"""

import json
import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class JSONLLogger(Logger):
    """Writes ``metrics.jsonl`` into ``save_dir``.

    Args:
        save_dir: folder of the run; also where the trainer puts checkpoints by default.
    """

    def __init__(self, *, save_dir: str) -> None:
        super().__init__()
        self._dir = Path(save_dir)
        self._opened = False

    @property
    def name(self) -> str:
        """The run folder's own name is used; none is added."""
        return ""

    @property
    def version(self) -> str:
        """One run a folder; no version folder is added."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self._dir)

    @property
    @rank_zero_experiment
    def experiment(self) -> Path:
        """The metrics file."""
        return self._dir / "metrics.jsonl"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the resolved configuration is saved as config.yaml beside the metrics."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append a line; non-finite values become null, as JSON has no other word for them."""
        if not self._opened:
            self._open(step or 0)
        values = {k: (float(v) if math.isfinite(v) else None) for k, v in metrics.items() if k != "epoch"}
        with self.experiment.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    @rank_zero_only
    def fill(self, step: int, metrics: dict[str, float]) -> None:
        """Append a step's line if the file has none with these metrics; a run goes on behind this step."""
        self._open(step + 1)
        lines = self.experiment.read_text().splitlines() if self.experiment.exists() else []
        wanted = metrics.keys() - {"epoch"}
        if not any(_step(line) == step and wanted <= json.loads(line).keys() for line in lines):
            self.log_metrics(metrics, step)

    def _open(self, first_step: int) -> None:
        self._dir.mkdir(parents=True, exist_ok=True)
        path = self.experiment
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if _step(line) < first_step]
            partial = path.with_suffix(".jsonl.tmp")
            partial.write_text("".join(line + "\n" for line in kept))
            os.replace(partial, path)
        self._opened = True


def _step(line: str) -> float:
    """Step of a line; a line cut short by a kill sorts last, so that it is dropped."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
