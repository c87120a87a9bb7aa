"""Tokens and FLOPs per second over the last optimizer steps, all devices together."""

import time
from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.errors import UserError
from lit_long.flops import ModelFlops, causal_pairs, model_flops, peak_flops


class Throughput(Callback):
    """Logs tokens, sequence length and work done, after each optimizer step.

    ``tokens_per_second`` and ``tflops_per_second`` are of all devices together, averaged over ``window`` steps;
    ``tokens`` and ``flops`` are totals since the start of training, over resumes, too. FLOPs are model FLOPs, by the
    lengths of the documents (:mod:`lit_long.flops`), for a module that has a transformers causal LM as ``model``.
    ``mfu``, their share of the devices' bfloat16 peak, is logged in ``bf16-mixed`` on GPUs whose peak is known. With a
    length schedule ``stage`` (from 1) is logged, too. Time of validation and checkpoints is not counted.

    Args:
        window: optimizer steps that the rates are averaged over.
    """

    def __init__(self, *, window: int = 20) -> None:
        self._steps: deque[tuple[float, int, float]] = deque(maxlen=window)  # seconds, tokens, FLOPs
        self._tokens = 0
        self._pairs: torch.Tensor | int = 0  # (query, key) pairs of this device's micro-batches
        self._pairs_of_step = 0.0  # of all devices
        self._began = 0.0
        self._step = 0
        self._flops: float | None = 0.0  # total; None: not known
        self._restored = False
        self._costs: ModelFlops | None = None
        self._peak: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what a token costs."""
        if trainer.global_step and not self._restored:
            self._flops = None  # a checkpoint of somebody who did not count
        try:
            model = getattr(pl_module, "model", None)
            self._costs = model_flops(model) if hasattr(model, "get_output_embeddings") else None
        except UserError as error:
            if trainer.is_global_zero:
                pl_module.print(f"flops are not logged: {error}")
        if trainer.precision == "bf16-mixed":
            self._peak = peak_flops(pl_module.device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of a step at its first micro-batch."""
        if self._tokens == 0:
            self._began, self._step = time.perf_counter(), trainer.global_step
        self._tokens += batch["input_ids"].numel() * trainer.world_size
        if self._costs is not None:
            self._pairs = self._pairs + causal_pairs(batch)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Read the pairs of all devices here, where the module waits for its loss, and not behind the optimizer."""
        if self._costs is not None:
            self._pairs_of_step = float(trainer.strategy.reduce(self._pairs, reduce_op="sum"))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log after the step's last micro-batch."""
        if trainer.global_step == self._step:
            return
        work = self._costs.step(self._tokens, self._pairs_of_step) if self._costs is not None else 0.0
        self._steps.append((time.perf_counter() - self._began, self._tokens, work))
        seconds = max(sum(s for s, _, _ in self._steps), 1e-9)
        values = {
            "tokens_per_second": sum(t for _, t, _ in self._steps) / seconds,
            "tokens": float(trainer.global_step * self._tokens),
            "sequence_length": float(batch["input_ids"].shape[1]),
        }
        if self._costs is not None:
            rate = sum(w for _, _, w in self._steps) / seconds
            values["tflops_per_second"] = rate / 1e12
            if self._peak is not None:
                values["mfu"] = rate / (self._peak * trainer.world_size)
            if self._flops is not None:
                self._flops += work
                values["flops"] = self._flops
        spans = getattr(getattr(trainer, "datamodule", None), "spans", ())
        if len(spans) > 1:
            values["stage"] = 1.0 + max(span.index for span in spans if span.first_step <= self._step)
        self._tokens = self._pairs = 0
        pl_module.log_dict(values, on_step=True, on_epoch=False, rank_zero_only=True)

    def state_dict(self) -> dict[str, Any]:
        """FLOPs so far."""
        return {"flops": self._flops}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._flops, self._restored = state_dict["flops"], True
