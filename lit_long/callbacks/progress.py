"""A progress bar in optimizer steps: loss, learning rate, tokens per second, sequence length, time left.

Lightning's bars count micro-batches, which is not what a learning-rate schedule or a token budget is stated in. On a
terminal this is one live rich bar; elsewhere (a log file, CI) one plain line every ``plain_every`` seconds.
"""

import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lit_long.callbacks.stage_line import stage_line
from lit_long.data.schedule import stage_at


class StepProgress(ProgressBar):
    """Progress in optimizer steps, on stderr.

    Args:
        plain_every: seconds between lines where there is no terminal.
    """

    def __init__(self, *, plain_every: float = 10.0) -> None:
        super().__init__()
        self.plain_every = plain_every
        self._enabled = True
        self._console = Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._first_step = self._step = 0
        self._stage = -1
        self._began = self._last_line = 0.0

    @property
    def is_enabled(self) -> bool:
        """Whether anything is shown."""
        return self._enabled

    def enable(self) -> None:
        """Show progress."""
        self._enabled = True

    def disable(self) -> None:
        """Show nothing (ranks other than 0)."""
        self._enabled = False

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            self._console.print(" ".join(str(a) for a in args), highlight=False, soft_wrap=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the step that the run starts or resumes at."""
        self._first_step = self._step = trainer.global_step
        self._stage = -1
        self._began = self._last_line = time.monotonic()
        if self._first_step:
            self.print(f"resumed at step {self._first_step} of {trainer.max_steps}")
        if self._enabled and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[metrics]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._bar.start()
            self._bar.add_task("fit", total=trainer.max_steps, completed=self._first_step, metrics="")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Say which stage begins, where the data has several."""
        data: Any = getattr(trainer, "datamodule", None)
        spans = getattr(data, "spans", ())
        if not self._enabled or len(spans) < 2:
            return
        span = stage_at(spans, trainer.global_step)
        if span.index != self._stage:
            self._stage = span.index
            rope = getattr(pl_module, "rope_parameters_at", None)
            accumulation = data.accumulation(trainer.global_step)
            self.print(stage_line(span, stages=len(spans), accumulation=accumulation, rope=rope))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance after each optimizer step."""
        if not self._enabled or trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        text = self._metrics(trainer)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=trainer.global_step, metrics=text)
            return
        now = time.monotonic()
        if now - self._last_line >= self.plain_every or trainer.global_step in (
            self._first_step + 1,
            trainer.max_steps,
        ):
            self._last_line = now
            done = trainer.global_step - self._first_step
            left = (now - self._began) / done * (trainer.max_steps - trainer.global_step)
            minutes, seconds = divmod(int(left), 60)
            self.print(f"step {trainer.global_step}/{trainer.max_steps}  {text}  {minutes}:{seconds:02d} left")

    def _metrics(self, trainer: Trainer) -> str:
        values = trainer.callback_metrics
        parts = [f"{name} {float(values[name]):{form}}" for name, form in _SHOWN if name in values]
        if "tokens_per_second" in values:
            parts.append(f"{float(values['tokens_per_second']):,.0f} tokens/s")
        parts += [form.format(float(values[name])) for name, form in _WORK.items() if name in values]
        if "sequence_length" in values:
            parts.append(f"sequence length {int(values['sequence_length']):,}")
        return "  ".join(parts)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say the held-out loss."""
        if not trainer.sanity_checking and "val_loss" in trainer.callback_metrics:
            loss = float(trainer.callback_metrics["val_loss"])
            self.print(f"step {trainer.global_step}: held-out loss {loss:.4f}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


_WORK = {  # measured by Throughput
    "mfu": "MFU {:.0%}",
    "peak_memory_gib": "{:.1f} GiB",
    "data_wait": "data wait {:.0%}",
    "straggler": "straggler {:.0%}",
}
_SHOWN = (("loss", ".4f"), ("val_loss", ".4f"), ("lr", ".2e"))
