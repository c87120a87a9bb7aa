"""Keeps Lightning's micro-batch counters right where the micro-batches of an optimizer step change.

Lightning derives optimizer steps, validation and the end of an epoch from one count of micro-batches and one constant
``accumulate_grad_batches``. Here their number changes between stages of a length schedule, and when a run is resumed
with another number of devices or another ``micro_batch``. So the count is restated in micro-batches of the live stage:
optimizer steps done, times the micro-batches that a step has now. Steps are the unit that nothing changes.
"""

from typing import Any, Protocol

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.errors import UserError


class StagedData(Protocol):
    """What :class:`StageSwitch` asks of a DataModule; ``PretrainData`` is one."""

    @property
    def spans(self) -> Any:
        """The stages with their ``first_step`` (:class:`lit_long.data.schedule.StageSpan`)."""

    def accumulation(self, step: int) -> int:
        """Micro-batches of a data-parallel rank in optimizer step ``step`` (0-based)."""


class StageSwitch(Callback):
    """Sets gradient accumulation and restates counters, for any LightningModule with automatic optimization.

    The DataModule attaches it (:meth:`attach`), so that nobody can forget it. In the first micro-batch of a stage the
    ``batch_idx`` that Lightning hands to hooks is still counted in the micro-batches of the stage before.
    """

    def __init__(self, data: StagedData) -> None:
        self._data = data
        self._most = max(data.accumulation(span.first_step) for span in data.spans)
        self._varies = any(data.accumulation(span.first_step) != self._most for span in data.spans)
        self._validation_steps: int | None = None

    @classmethod
    def attach(cls, trainer: Trainer, data: StagedData) -> None:
        """Put the accumulation of step 0 into ``trainer``, and a switch before its other callbacks.

        Call it in the DataModule's ``setup("fit")``.

        Raises:
            UserError: the module optimizes by hand, or validation would fall into the middle of a step.
        """
        switch = cls(data)
        switch._check(trainer)
        trainer.accumulate_grad_batches = data.accumulation(0)
        others = [callback for callback in trainer.callbacks if not isinstance(callback, StageSwitch)]  # type: ignore[attr-defined]
        trainer.callbacks[:] = [switch, *others]  # type: ignore[attr-defined]

    def _check(self, trainer: Trainer) -> None:
        if not self._varies:
            return
        if not trainer.lightning_module.automatic_optimization:
            raise UserError(
                "the stages of data.schedule have different numbers of micro-batches per step, which a module with "
                "manual optimization cannot follow; give the stages micro_batch sizes of as many tokens"
            )
        interval = trainer.val_check_interval
        if trainer.limit_val_batches and isinstance(interval, int) and interval % self._most:
            below = interval // self._most * self._most
            fitting = f"{below} or {below + self._most}" if below else str(self._most)
            raise UserError(
                f"trainer.val_check_interval is {interval} micro-batches; where stages differ in micro-batches per "
                f"step it counts those of the stage with the most, {self._most} a step, and must be whole steps: take "
                f"{fitting}"
            )

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restate the counts of a checkpoint, which may be of another stage or another number of devices."""
        if "loops" not in checkpoint or not trainer.training:
            return
        step = int(checkpoint["global_step"])
        trainer.accumulate_grad_batches = self._data.accumulation(step)
        done = step * trainer.accumulate_grad_batches
        loops = checkpoint["loops"]["fit_loop"]
        for counts in (loops["epoch_loop.batch_progress"]["current"], loops["epoch_loop.batch_progress"]["total"]):
            # the state in which ModelCheckpoint saves: all but the last count of the last batch
            counts.update(dict.fromkeys(counts, done), completed=max(0, done - 1))
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] = max(0, step - 1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate every so many steps, whatever a step's micro-batches: Lightning has just set the interval."""
        interval = trainer.val_check_batch
        if self._varies and interval is not None and interval != float("inf"):
            self._validation_steps = max(1, int(interval) // self._most)
            trainer.val_check_batch = self._validation_steps * trainer.accumulate_grad_batches

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """At the first micro-batch of a stage with another accumulation: set it, and restate the counts."""
        needed = self._data.accumulation(trainer.global_step)
        if needed == trainer.accumulate_grad_batches:
            return
        trainer.accumulate_grad_batches = needed
        done = trainer.global_step * needed
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress
        for counts in (progress.current, progress.total):
            counts.ready, counts.started, counts.processed, counts.completed = done + 1, done, done, done
        if self._validation_steps is not None:
            trainer.val_check_batch = self._validation_steps * needed
        # Lightning clears gradients where batch_idx is a multiple of the accumulation; this batch_idx is the old one
        for optimizer in trainer.optimizers:
            pl_module.optimizer_zero_grad(trainer.current_epoch, batch_idx, optimizer)
