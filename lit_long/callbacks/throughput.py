"""Tokens per second over the last optimizer steps, all devices together."""

import time
from collections import deque
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs ``tokens_per_second`` (all devices), ``tokens`` (since the start of training) and ``sequence_length``.

    Tokens are those of the optimizer step (``tokens_per_step`` of the DataModule, or what the batches hold); validation
    and checkpointing time is not counted.

    Args:
        window: optimizer steps that the rate is averaged over.
    """

    def __init__(self, *, window: int = 20) -> None:
        self._times: deque[tuple[float, int]] = deque(maxlen=window)
        self._tokens = 0
        self._began = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of a step at its first micro-batch."""
        if self._tokens == 0:
            self._began = time.perf_counter()
        self._tokens += batch["input_ids"].numel() * trainer.world_size

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log after the step's last micro-batch."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        self._times.append((time.perf_counter() - self._began, self._tokens))
        rate = sum(t for _, t in self._times) / max(sum(s for s, _ in self._times), 1e-9)
        values = {
            "tokens_per_second": rate,
            "tokens": float(trainer.global_step * self._tokens),
            "sequence_length": float(batch["input_ids"].shape[1]),
        }
        self._tokens = 0
        pl_module.log_dict(values, on_step=True, on_epoch=False, rank_zero_only=True)
