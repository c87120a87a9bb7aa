"""What was predicted for a run beside what its first steps took."""

import resource
import sys
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.errors import UserError
from lit_long.model.memory import ModelFacts, estimate

_STEPS = 3  # the first has no optimizer states, the second may still compile


class PlanReport(Callback):
    """Prints predicted and measured peak memory after the third step, on the first rank.

    The prediction is the one that levers are chosen by (:func:`lit_long.model.memory.estimate`), of ``lit-long plan``,
    too. Measured: what PyTorch allocated on a GPU; else what the process has grown by since before the model was built,
    with the C library's fragments and threads in it, so some per cent more.
    """

    def __init__(self) -> None:
        self._before = 0
        self._said = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note what the process has before there is a model."""
        self._before = _resident()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Say it once."""
        if self._said or trainer.global_step < _STEPS or not trainer.is_global_zero:
            return
        self._said = True
        text = self._text(pl_module)
        if text is not None:
            pl_module.print(text)

    def _text(self, module: Any) -> str | None:
        facts, built = getattr(module, "run_facts", None), getattr(module, "built", None)
        run = facts() if facts is not None else None
        if run is None or built is None:
            return None
        try:
            predicted = estimate(ModelFacts.of(module.model), run, built.levers).total
        except UserError:
            return None
        if module.device.type == "cuda":
            measured, what = torch.cuda.max_memory_allocated(module.device), "allocated by PyTorch"
        else:
            measured, what = _resident() - self._before, "grown by this process"
        if measured <= 0:  # a process that has been larger before
            return None
        error = predicted / measured - 1
        return (
            f"plan: peak memory {predicted / 1e9:.2f} GB predicted, {measured / 1e9:.2f} GB measured ({what}); "
            f"error {error:+.0%}"
        )


def _resident() -> int:
    """Bytes that the process has had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
