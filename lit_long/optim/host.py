"""AdamW whose moments live in CPU memory: 8 bytes a parameter that the GPU does not hold.

Weights and gradients stay where they are. A step takes them to the CPU in slices, updates each slice with PyTorch's own
fused CPU kernel, and sends it back; while one slice is computed the next one is on its way. Two slices are pinned,
nothing else is copied, and clipped gradients are what is used.

torchao's ``CPUOffloadOptimizer`` was tried first (0.18.0, read in its source). It takes gradients over while the
backward runs, hence before they are clipped; it has no ``state``, which Lightning walks through at the start of a fit;
and it holds 16 bytes a parameter on the host, pinned.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw as functional_adamw

from lit_long.errors import UserError

SLICE = 2**25  # numbers that are on their way at once: 128 MB in float32


class HostAdamW(torch.optim.Optimizer):
    """AdamW (decoupled weight decay) with its moments and its arithmetic on the CPU, in float32.

    Its state dict is that of ``torch.optim.AdamW``, so either reads the other's.

    Args:
        params: parameters or groups, on any device; float32 or bfloat16, not sharded.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the denominator.
        weight_decay: decoupled weight decay.

    Raises:
        UserError: a parameter is sharded (fully_shard has CPUOffloadPolicy for that).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        # every key of AdamW's, so that it reads our groups
        defaults = torch.optim.AdamW([torch.zeros(1)], fused=True).defaults
        super().__init__(params, defaults | {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for parameter in self._parameters():
            if isinstance(parameter, DTensor):
                raise UserError(
                    "optimizer.states: host is for whole parameters, and these are sharded over devices; set states to "
                    "float32 or 8bit"
                )
        # not in self.state: Lightning moves what is there to the GPU
        self._moments: dict[nn.Parameter, dict[str, torch.Tensor]] = {}
        self._stages: dict[torch.device, list[_Stage]] = {}

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        work = []  # (stage, slice of weights, of gradients, moments, group), one after the other
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                moments = self._moments_of(parameter)
                step = moments["step"].clone()  # the kernel counts up, once for each slice
                moments["step"] += 1
                weights, grads = parameter.view(-1), parameter.grad.contiguous().view(-1)
                for begin in range(0, weights.numel(), SLICE):
                    cut = slice(begin, begin + SLICE)
                    both = (moments["exp_avg"].view(-1)[cut], moments["exp_avg_sq"].view(-1)[cut])
                    work.append((weights[cut], grads[cut], both, step, group))
        for number, (weights, grads, _, _, _) in enumerate(work[:1]):
            self._stage(weights.device, number).fetch(weights, grads)
        for number, (weights, _, both, step, group) in enumerate(work):
            if number + 1 < len(work):
                self._stage(work[number + 1][0].device, number + 1).fetch(*work[number + 1][:2])
            stage = self._stage(weights.device, number)
            values, gradient = stage.ready()
            functional_adamw(
                [values], [gradient], [both[0]], [both[1]], [], [step.clone()], foreach=False, fused=True,
                amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=float(group["lr"]),
                weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
            )  # fmt: skip
            stage.send(weights)
        for stages in self._stages.values():
            for stage in stages:
                stage.finish()
        return loss

    def _stage(self, device: torch.device, number: int) -> "_Stage":
        stages = self._stages.setdefault(device, [])
        if not stages:
            size = min(SLICE, max(p.numel() for p in self._parameters()))
            stages += [_Stage(device, size), _Stage(device, size)]
        return stages[number % 2]

    def _moments_of(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        if parameter not in self._moments:
            self._moments[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros(parameter.shape, dtype=torch.float32),
                "exp_avg_sq": torch.zeros(parameter.shape, dtype=torch.float32),
            }
        return self._moments[parameter]

    def state_dict(self) -> dict[str, Any]:
        """In the format of ``torch.optim.AdamW``."""
        parameters = self._parameters()
        state = {i: dict(self._moments[p]) for i, p in enumerate(parameters) if p in self._moments}
        return super().state_dict() | {"state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state of a HostAdamW or a ``torch.optim.AdamW``.

        Raises:
            UserError: it is one of 8-bit moments.
        """
        tensors = [value for moments in state_dict["state"].values() for value in moments.values()]
        if not all(type(value) is torch.Tensor for value in tensors):
            raise UserError(
                "the checkpoint's optimizer states are 8bit, and optimizer.states is host; resume with what it was "
                "started with"
            )
        super().load_state_dict(state_dict | {"state": {}})
        for i, parameter in enumerate(self._parameters()):
            if i in state_dict["state"]:
                moments = self._moments_of(parameter)
                for key, value in moments.items():
                    value.copy_(state_dict["state"][i][key])


class _Stage:
    """Room for one slice of weights and gradients on the CPU, pinned for a GPU."""

    def __init__(self, device: torch.device, size: int) -> None:
        cuda = device.type == "cuda"
        self._values = torch.empty(size, dtype=torch.float32, pin_memory=cuda)
        self._grads = torch.empty(size, dtype=torch.float32, pin_memory=cuda)
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._count = 0

    def fetch(self, weights: torch.Tensor, grads: torch.Tensor) -> None:
        """Start to take a slice over."""
        self._count = weights.numel()
        if self._stream is None:
            self._copy(weights, grads)
            return
        self._stream.wait_stream(torch.cuda.current_stream(weights.device))
        with torch.cuda.stream(self._stream):
            self._copy(weights, grads)

    def _copy(self, weights: torch.Tensor, grads: torch.Tensor) -> None:
        self._values[: self._count].copy_(weights, non_blocking=True)
        self._grads[: self._count].copy_(grads, non_blocking=True)

    def ready(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The slice, once it is there."""
        if self._stream is not None:
            self._stream.synchronize()
        return self._values[: self._count], self._grads[: self._count]

    def send(self, weights: torch.Tensor) -> None:
        """Start to send the updated slice back; the room is free for a fetch behind it."""
        if self._stream is None:
            weights.copy_(self._values[: self._count])
            return
        with torch.cuda.stream(self._stream):
            weights.copy_(self._values[: self._count], non_blocking=True)

    def finish(self) -> None:
        """Let the device's own work wait for what was sent."""
        if self._stream is not None:
            torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)
