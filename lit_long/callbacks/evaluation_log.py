"""Where evaluations in a run go: loggers, ``evaluation.jsonl``, plots."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from lit_long.evaluation.position_loss import PositionLoss
from lit_long.evaluation.retrieval.in_run import summary
from lit_long.evaluation.retrieval.report import plot_heatmap
from lit_long.evaluation.truncation import ContextGain

_CURVES = 8  # in a plot


@dataclass(frozen=True)
class Found:
    """What one evaluation measured, by the name of the corpus (empty where there is one)."""

    losses: Mapping[str, tuple[PositionLoss, ContextGain | None]]
    retrieval: Mapping[str, Sequence[dict[str, Any]]]
    """Rows of probes."""


class EvaluationLog:
    """Writes what rank 0 knows after each evaluation.

    Args:
        folder: of the run; an ``evaluation.jsonl`` of earlier steps in it is continued.
        step: optimizer steps done; rows of later ones belong to steps that will be trained again, and are dropped.
    """

    def __init__(self, folder: str, step: int) -> None:
        self._folder = Path(folder)
        self._file = self._folder / "evaluation.jsonl"
        self._rows: list[dict[str, Any]] = []
        if self._file.exists() and step:
            rows = [json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines()]
            self._rows = [row for row in rows if row["step"] <= step]

    def write(
        self,
        trainer: Trainer,
        found: Found,
        values: Mapping[str, float],
        seconds: float,
    ) -> None:
        """Add a row, draw the plots anew, and hand numbers and plots to the trainer's loggers."""
        step = trainer.global_step
        row: dict[str, Any] = {"step": step, "seconds": round(seconds, 2), "values": dict(values), "sets": {}}
        for name, (position, gain) in found.losses.items():
            row["sets"][name] = _plain(position, gain)
        if found.retrieval:
            row["retrieval"] = {name: summary(rows) for name, rows in found.retrieval.items()}
        self._rows.append(row)
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_suffix(".jsonl.tmp")
        partial.write_text("".join(json.dumps(one) + "\n" for one in self._rows), encoding="utf-8")
        os.replace(partial, self._file)
        at = max(0, step - 1)  # as Lightning counts the metrics of the step just done
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), at)
        plots = {(name, "loss_by_position"): self._plot(name) for name in found.losses}
        for name, rows in found.retrieval.items():
            for task in dict.fromkeys(one["task"] for one in rows):
                path = self._folder / f"{task}{'_' + name if name else ''}.png"
                own = [one for one in rows if one["task"] == task]
                plots[name, task] = plot_heatmap(own, path, f"after step {step:,}")
        for (name, what), plot in plots.items():
            for logger in trainer.loggers:
                _log_image(logger, f"eval/{name + '/' if name else ''}{what}", plot, at)

    def _plot(self, name: str) -> Path:
        """Loss by position after the evaluations so far (at most eight of them, the first and the last included)."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        rows = [row for row in self._rows if name in row["sets"]]
        if len(rows) > _CURVES:
            rows = [rows[round(i * (len(rows) - 1) / (_CURVES - 1))] for i in range(_CURVES)]
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = FigureCanvasAgg(figure).figure.add_subplot()
        for index, row in enumerate(rows):
            curve = row["sets"][name]["curve"]
            shade = 0.15 + 0.75 * index / max(1, len(rows) - 1)
            axes.plot(curve["position"], curve["loss"], color=(0.1, 0.3, 0.7, shade), label=f"step {row['step']:,}")
        axes.axvline(rows[-1]["sets"][name]["native_length"], color="black", linestyle="--", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("position (tokens of context); dashed: native length")
        axes.set_ylabel("loss (nats per token)")
        axes.grid(alpha=0.2)
        axes.legend()
        path = self._folder / f"loss_by_position{'_' + name if name else ''}.png"
        figure.savefig(path, dpi=120)
        return path


def _plain(position: PositionLoss, gain: ContextGain | None) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "native_length": position.native_length,
        "windows": position.windows.fingerprint[:16],
        "buckets": [
            {"first": b.first, "last": b.last, "loss": b.loss.mean, "low": b.loss.low, "high": b.loss.high}
            for b in position.buckets
        ],
        "curve": {"position": position.curve.positions, "loss": position.curve.loss},
    }
    if gain is not None:
        plain["contexts"] = [
            {"context": context, "loss": loss.mean, "low": loss.low, "high": loss.high}
            for context, loss in zip(gain.plan.contexts, gain.loss, strict=True)
        ]
        full = gain.full_minus_best
        plain["full_minus_best"] = {
            "context": gain.best_truncation,
            "mean": full.mean,
            "low": full.low,
            "high": full.high,
        }
    return plain


def _log_image(logger: Any, name: str, path: Path, step: int) -> None:
    """Give a plot to loggers that take images: those with ``log_image`` (wandb, ...) and TensorBoard."""
    if hasattr(logger, "log_image"):
        logger.log_image(key=name, images=[str(path)], step=step)
    elif hasattr(logger.experiment, "add_image"):
        from matplotlib.image import imread

        logger.experiment.add_image(name, imread(path)[..., :3], step, dataformats="HWC")
