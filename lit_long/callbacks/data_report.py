"""Asked versus achieved data, before and during training."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.data.mixture_plot import plot_mixture
from lit_long.data.mixture_report import MixtureReport, to_markdown
from lit_long.data.planned import PlannedData


class DataReport(Callback):
    """Prints the data plan before the first step, and keeps ``data_report.md``, ``.json`` and ``.png`` up to date.

    For a :class:`lit_long.data.PretrainData` or ``InstructData``; other data is left alone.

    Args:
        every_n_steps: optimizer steps between updates of the files, which lie in the logger's folder.
    """

    def __init__(self, *, every_n_steps: int = 1000) -> None:
        self.every_n_steps = every_n_steps
        self._written = -1
        self._folder: str | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the plan: asked tokens, passes over each source, padding, evenness over devices."""
        self._folder = trainer.log_dir  # asked by every rank, because rank 0 broadcasts it
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, PlannedData) or not trainer.is_global_zero:
            return
        report = data.report()
        pl_module.print(_summary(report, data))
        self._write(report)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the files every so many steps."""
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._written:
            self._update(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files."""
        self._update(trainer)

    def _update(self, trainer: Trainer) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if isinstance(data, PlannedData) and trainer.is_global_zero:
            self._written = trainer.global_step
            self._write(data.report())

    def _write(self, report: MixtureReport) -> None:
        if self._folder is None:
            return
        folder = Path(self._folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data_report.md").write_text("# Data of this run\n\n" + to_markdown(report), encoding="utf-8")
        (folder / "data_report.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        if report.steps_done:
            plot_mixture(report, folder / "data_report.png")


def _summary(report: MixtureReport, data: PlannedData) -> str:
    lines = [
        f"data: {report.steps:,} steps of {report.tokens_per_step:,} tokens, packing {report.packing}"
        + ("" if data.document_mask else ", attention across documents")
    ]
    for s in report.sources:
        line = f"  {s.source}: {s.asked:,.0f} tokens ({s.share:.1%}) from {s.available:,}, {s.epochs:.2f} passes"
        line += f", {s.padding:.1%} padding" if s.padding > 0 else ""
        line += f"; {s.dropped_documents:,} documents left out by length" if s.dropped_documents else ""
        lines.append(line)
    if report.beyond_native_asked is not None:
        lines.append(
            f"  {report.beyond_native_asked:.1%} of the tokens are in documents longer than the native "
            f"{report.native_length:,}"
        )
    if data.dealing.replicas > 1:
        before, after = data.imbalance()
        lines.append(
            f"  predicted step time over an even one: {before:.3f} as sequences come, {after:.3f} as they are dealt"
        )
    return "\n".join(lines)
