"""What was predicted for a run beside what its first steps took."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.callbacks.resident import peak_resident, resident
from lit_long.errors import UserError
from lit_long.flops import causal_pairs
from lit_long.hardware import Device, find_device
from lit_long.model.memory import ModelFacts, estimate

_FIRST, _LAST = 1, 3  # optimizer steps that measuring begins and ends behind; the first may compile


class PlanReport(Callback):
    """Prints predicted and measured peak memory and seconds of a step after the third step, on the first rank.

    Memory is predicted by what levers are chosen by (:func:`lit_long.model.memory.estimate`), time by
    :mod:`lit_long.planner.speed` for the documents that were there, as in ``lit-long plan``. Measured: what PyTorch
    allocated on a GPU; else the weights and what the process has grown by since training began, with the C library's
    fragments, threads and lazy imports in it, so up to some hundred MB more.

    Args:
        device: name in the table of devices, or ``cpu`` (measured, some seconds), to predict time for; default: the GPU
            by its own name, and no time on a CPU.

    Raises:
        UserError: no such device.
    """

    def __init__(self, *, device: str | None = None) -> None:
        self._name = device
        if device not in (None, "cpu"):
            find_device(str(device))
        self._before, self._began, self._micro_batches = 0, 0.0, 0
        self._said = False
        self._work: list[tuple[Any, int]] = []  # (query, key) pairs and tokens of this rank's micro-batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the process has beside the model."""
        self._before = resident() - _weights(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure two steps, and say it once."""
        if self._said:
            return
        step = trainer.global_step
        if self._began and isinstance(batch, dict) and "input_ids" in batch:
            self._work.append((causal_pairs(batch), batch["input_ids"].numel()))
            self._micro_batches += 1
        if step >= _FIRST and not self._began:
            self._began = _now(pl_module.device)
        if step < _LAST:
            return
        self._said = True
        seconds = (_now(pl_module.device) - self._began) / max(1, step - _FIRST)
        if trainer.is_global_zero:
            for text in (self._memory(pl_module), self._time(trainer, pl_module, seconds, step - _FIRST)):
                if text is not None:
                    pl_module.print(text)

    def _memory(self, module: Any) -> str | None:
        run, built = _facts(module)
        if run is None or built is None:
            return None
        try:
            predicted = estimate(ModelFacts.of(module.model), run, built.levers).total
        except UserError:
            return None
        if module.device.type == "cuda":
            measured, what = torch.cuda.max_memory_allocated(module.device), "allocated by PyTorch"
        else:
            measured, what = peak_resident() - self._before, "weights, and what this process grew by"
        if measured <= 0:  # a process that has been larger before
            return None
        return (
            f"plan: peak memory {predicted / 1e9:.2f} GB predicted, {measured / 1e9:.2f} GB measured ({what}); "
            f"error {predicted / measured - 1:+.0%}"
        )

    def _time(self, trainer: Trainer, module: Any, measured: float, steps: int) -> str | None:
        from lit_long.planner.live import expected_seconds

        device = self._device(trainer, module)
        run, built = _facts(module)
        if device is None or run is None or built is None or not self._work or measured <= 0:
            return None
        pairs = sum(int(pairs) for pairs, _ in self._work)
        tokens = sum(tokens for _, tokens in self._work)
        try:
            predicted = expected_seconds(
                module.model,
                run,
                built.levers,
                device,
                devices=trainer.num_devices,
                nodes=trainer.num_nodes,
                micro_batches=max(1, self._micro_batches // max(1, steps)),
                document_length=max(1, round(2 * pairs / tokens) - 1),
            )
        except UserError:
            return None
        return (
            f"plan: {predicted:.3g} s a step predicted on {device.name}, {measured:.3g} s measured; "
            f"error {predicted / measured - 1:+.0%}"
        )

    def _device(self, trainer: Trainer, module: Any) -> Device | None:
        from lit_long.planner.live import device_called

        if self._name == "cpu":
            from lit_long.planner.cpu import this_cpu

            return this_cpu(trainer.num_devices)
        if self._name is not None:
            return find_device(self._name)
        if module.device.type == "cuda":
            return device_called(torch.cuda.get_device_name(module.device))
        return None


def _facts(module: Any) -> tuple[Any, Any]:
    facts = getattr(module, "run_facts", None)
    return (None if facts is None else facts()), getattr(module, "built", None)


def _weights(module: torch.nn.Module) -> int:
    """Bytes of parameters and buffers on this rank; shared storages count once."""
    found = {}
    for tensor in [*module.parameters(), *module.buffers()]:
        local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        found[local.untyped_storage().data_ptr()] = local.untyped_storage().nbytes()
    return sum(found.values())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
