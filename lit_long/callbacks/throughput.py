"""What training gets done per second: tokens, FLOPs, MFU; memory; and who waits for what."""

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.callbacks.fetch_clock import FetchClock
from lit_long.callbacks.own_clock import OwnClock
from lit_long.callbacks.resident import peak_resident
from lit_long.errors import UserError
from lit_long.flops import ModelFlops, causal_pairs, model_flops, peak_flops

_SHOWN = ("tokens_per_second", "mfu", "peak_memory_gib", "data_wait", "straggler")  # in progress bars, too


@dataclass(frozen=True)
class _Step:
    seconds: float
    tokens: int
    flops: float
    recomputed: float
    waited: float  # for data, the rank that waited longest


class Throughput(Callback):
    """Logs tokens, sequence length and work done, after each optimizer step.

    Logged, rates averaged over ``window`` steps, time of validation and checkpoints not counted:

    - ``tokens_per_second`` of all devices together, ``tokens_per_second_per_device``, ``tokens`` in all;
    - ``tflops_per_second`` of all devices, ``flops`` in all: **model** FLOPs, by the lengths of the documents
      (:mod:`lit_long.flops`), for a module that has a transformers causal LM as ``model``. What activation
      checkpointing computes again is no work done for the model; it is logged apart, as
      ``recomputed_tflops_per_second``, where the module says what it recomputes (``module.recomputed``);
    - ``mfu``: model FLOPs as a share of the devices' peak: ``peak_flops``, else the dense bfloat16 peak of known GPUs
      when training in bfloat16 (by the trainer's precision or the strategy's ``param_dtype``);
    - ``data_wait``: share of the time in which training waited for a batch, of the rank that waited longest;
    - ``peak_memory_gib``: most memory of any rank since the run began: allocated by PyTorch on a GPU, else of the whole
      process;
    - with several ranks ``straggler``: how much longer than the mean the slowest rank took to the point where it first
      waits for the others (:class:`~lit_long.callbacks.own_clock.OwnClock`), and ``work_spread``: how much more than
      the mean the rank with most attention work had;
    - ``sequence_length`` and, with a length schedule, ``stage`` (from 1).

    Tokens per second, MFU, memory, data wait and straggler are also in the progress bar. Ranks are taken to have
    equally many tokens, or to say how many (``tokens_per_rank``).

    Args:
        window: optimizer steps that the rates are averaged over.
        peak_flops: peak of one device in FLOP/s, for ``mfu``; default: known for some GPUs.
    """

    def __init__(self, *, window: int = 20, peak_flops: float | None = None) -> None:
        if window < 1 or (peak_flops is not None and peak_flops <= 0):
            raise UserError(f"Throughput: window is {window}, peak_flops {peak_flops}; both must be above 0")
        self._steps: deque[_Step] = deque(maxlen=window)
        self._tokens = 0
        self._pairs: torch.Tensor | int = 0  # (query, key) pairs of this device's micro-batches
        self._ranks = torch.zeros(1, 4, dtype=torch.float64)  # of each rank: pairs, own seconds, seconds waited, bytes
        self._began = self._waited_before = 0.0
        self._step = 0
        self._flops: float | None = 0.0  # total; None: not known
        self._counted: int | None = 0  # tokens in all; None: not known
        self._restored = False
        self._costs: ModelFlops | None = None
        self._peak = peak_flops
        self._fetches, self._own = FetchClock(), OwnClock()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count what a token costs."""
        if trainer.global_step and not self._restored:
            self._flops = self._counted = None  # a checkpoint of somebody who did not count
        try:
            model = getattr(pl_module, "model", None)
            self._costs = model_flops(model) if hasattr(model, "get_output_embeddings") else None
        except UserError as error:
            if trainer.is_global_zero:
                pl_module.print(f"flops are not logged: {error}")
        if self._peak is None and _computes_in_bfloat16(trainer):
            self._peak = peak_flops(pl_module.device)
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._fetches.attach(trainer)
        self._fetches.take()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Start the clock of a step at its first micro-batch."""
        if self._tokens == 0:
            self._began, self._step = time.perf_counter(), trainer.global_step
            self._waited_before = self._fetches.take()  # later micro-batches are waited for inside of the step's time
            self._own.start(pl_module.device)
        if not hasattr(batch, "get") or not isinstance(batch.get("input_ids"), torch.Tensor):
            raise UserError(
                f"Throughput counts tokens in batches that are dicts with input_ids [B, S]; this batch is "
                f"{_described(batch)}. Return such a dict from the dataset, or train without this callback"
            )
        own = batch.get("tokens_per_rank", batch["input_ids"].numel())  # of a split batch: without its padding
        self._tokens += round(own * trainer.world_size)
        if self._costs is not None:
            self._pairs = self._pairs + causal_pairs(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        """The last thing before gradients are exchanged, if this micro-batch is the step's last."""
        self._own.mark()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Read all devices' numbers here, where the module waits for its loss, and not behind the optimizer."""
        waited = self._waited_before + self._fetches.take()
        own = [self._own.seconds(), waited, _peak_memory(pl_module.device)]
        ranks = torch.tensor([0.0, *own], dtype=torch.float64, device=pl_module.device)
        ranks[0] = self._pairs
        self._ranks = trainer.strategy.all_gather(ranks).reshape(-1, 4).cpu()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log after the step's last micro-batch."""
        if trainer.global_step == self._step:
            return
        seconds = time.perf_counter() - self._began + self._waited_before
        pairs, own, waited, memory = self._ranks.unbind(dim=1)
        wait = float(waited.max())
        work = again = 0.0
        if self._costs is not None:
            work = self._costs.step(self._tokens, float(pairs.sum()))
            again = self._costs.recomputation(self._tokens, float(pairs.sum()), **_recomputed(pl_module))
        self._steps.append(_Step(seconds, self._tokens, work, again, wait))
        if self._counted is None:  # of a checkpoint of somebody who did not count: all steps as large as this one
            self._counted = (trainer.global_step - 1) * self._tokens
        self._counted += self._tokens
        values = self._rates(trainer.world_size) | {
            "tokens": float(self._counted),
            "sequence_length": float(batch.get("sequence_length", batch["input_ids"].shape[1])),
            "peak_memory_gib": float(memory.max()) / 2**30,
        }
        if self._costs is not None and self._flops is not None:
            self._flops += work
            values["flops"] = self._flops
        if len(own) > 1:
            values["straggler"] = _excess(own)
            if self._costs is not None:
                values["work_spread"] = _excess(pairs)
        spans = getattr(getattr(trainer, "datamodule", None), "spans", ())
        if len(spans) > 1:
            values["stage"] = 1.0 + max(span.index for span in spans if span.first_step <= self._step)
        self._tokens = self._pairs = 0
        shown = {name: values.pop(name) for name in _SHOWN if name in values}
        pl_module.log_dict(shown, on_step=True, on_epoch=False, rank_zero_only=True, prog_bar=True)
        pl_module.log_dict(values, on_step=True, on_epoch=False, rank_zero_only=True)

    def _rates(self, devices: int) -> dict[str, float]:
        seconds = max(sum(step.seconds for step in self._steps), 1e-9)
        tokens = sum(step.tokens for step in self._steps) / seconds
        values = {
            "tokens_per_second": tokens,
            "tokens_per_second_per_device": tokens / devices,
            "data_wait": sum(step.waited for step in self._steps) / seconds,
        }
        if self._costs is not None:
            rate = sum(step.flops for step in self._steps) / seconds
            values["tflops_per_second"] = rate / 1e12
            if again := sum(step.recomputed for step in self._steps):
                values["recomputed_tflops_per_second"] = again / seconds / 1e12
            if self._peak is not None:
                values["mfu"] = rate / (self._peak * devices)
        return values

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the trainer's profiler."""
        self._fetches.detach()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let go of the trainer's profiler."""
        self._fetches.detach()

    def state_dict(self) -> dict[str, Any]:
        """FLOPs and tokens so far."""
        return {"flops": self._flops, "tokens": self._counted}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self._flops, self._counted, self._restored = state_dict["flops"], state_dict.get("tokens"), True


def _computes_in_bfloat16(trainer: Trainer) -> bool:
    """By Lightning's precision, or by a strategy that gathers parameters in bfloat16 (``param_dtype``)."""
    sharding = getattr(trainer.strategy, "sharding", None)
    return trainer.precision in ("bf16-mixed", "bf16-true") or getattr(sharding, "param_dtype", None) == "bfloat16"


def _described(batch: Any) -> str:
    return f"a dict with {sorted(map(str, batch))}" if isinstance(batch, dict) else f"a {type(batch).__name__}"


def _recomputed(pl_module: LightningModule) -> dict[str, float]:
    """Shares of the layers and of attention that are computed twice, as the module says; none if it does not."""
    return dict(getattr(pl_module, "recomputed", {"layers": 0.0, "attention": 0.0}))


def _excess(values: torch.Tensor) -> float:
    """How far the greatest is above the mean, as a share of it."""
    mean = float(values.mean())
    return float(values.max()) / mean - 1 if mean > 0 else 0.0


def _peak_memory(device: torch.device) -> float:
    """Bytes: allocated by PyTorch on a GPU, else the process' resident memory; the most so far."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return float(peak_resident())
