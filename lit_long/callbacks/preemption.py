"""A run that is told to stop (SIGTERM, or SLURM's SIGUSR1) ends behind its step, saves, and goes back into the queue.

Lightning's own SLURM handler saves at once, wherever each rank happens to be. A sharded save is collective, so ranks
that are interrupted at different places of a step would wait for each other for ever. Here a signal is only noted;
behind each optimizer step the ranks agree whether any of them got one, and stop together. FinalCheckpoint then saves.
"""

import os
import signal
import subprocess
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preemption(Callback):
    """Stops cleanly on SIGUSR1 or SIGTERM; in a SLURM job that got SIGUSR1, puts the job back into the queue.

    Attributes:
        stopped: the signal that ended the run, or None.
    """

    def __init__(self) -> None:
        self.stopped: signal.Signals | None = None
        self._got = 0
        self._step = 0
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the signals over, from Lightning, too."""
        self._step = trainer.global_step
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._got = number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Behind an optimizer step: did any rank get a signal?"""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        got = torch.tensor([float(self._got == s) for s in SIGNALS], device=pl_module.device)
        counts = trainer.strategy.reduce(got, reduce_op="sum").tolist()
        for number, count in zip(SIGNALS, counts, strict=True):
            if count and self.stopped is None:
                self.stopped = number
                trainer.should_stop = True
                rank_zero_warn(
                    f"{number.name}: the run stops behind step {trainer.global_step} and is saved; go on with the same "
                    f"command and --ckpt_path last"
                )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the signals back."""
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Everything is saved: back into the queue."""
        job = os.environ.get("SLURM_JOB_ID")
        if self.stopped != signal.SIGUSR1 or job is None or not trainer.is_global_zero:
            return
        if "SLURM_ARRAY_JOB_ID" in os.environ:
            job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
        try:
            subprocess.run(["scontrol", "requeue", job], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            rank_zero_warn(f"job {job} could not be put back into the queue ({error}); submit it again")
