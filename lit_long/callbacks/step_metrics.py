"""No line of the metrics file is lost to a kill.

Lightning writes a step's metrics after its checkpoint. A run that is killed in between goes on behind that step, whose
line would be missing for good; so the checkpoint carries it, too.
"""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.loggers import JSONLLogger


class StepMetrics(Callback):
    """Keeps the metrics of the last step in checkpoints, and gives them to a :class:`JSONLLogger` that lacks them."""

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put this step's metrics in, as plain numbers."""
        values = {
            key: float(value) if isinstance(value, torch.Tensor | float | int) else value
            for key, value in trainer.logged_metrics.items()
            if not key.startswith("val_")  # of an earlier step, and in a line of its own
        }
        checkpoint["lit_long_step_metrics"] = {"step": trainer.global_step - 1, "values": values}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take them out."""
        self._restored = checkpoint.get("lit_long_step_metrics")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give them to the metrics file."""
        if self._restored is None or self._restored["step"] != trainer.global_step - 1:
            return
        for logger in trainer.loggers:
            if isinstance(logger, JSONLLogger):
                logger.fill(self._restored["step"], self._restored["values"])
