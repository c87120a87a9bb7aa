"""AdamW with its moments where and how the settings ask for, by the same update."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lit_long.errors import UserError
from lit_long.optim.host import HostAdamW
from lit_long.optim.low_bit import adamw_8bit, is_low_bit
from lit_long.optim.settings import OptimizerSettings


def adamw(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over the trainable ``parameters``, matrices with weight decay and vectors without.

    PyTorch's fused kernel, where it has one for the device.

    Raises:
        UserError: ``settings.states`` needs a library that is not installed, or whole parameters and these are sharded.
    """
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    common: dict[str, Any] = {"lr": settings.learning_rate, "betas": settings.betas, "eps": settings.eps}
    if settings.states == "8bit":
        return adamw_8bit(groups, **common)
    if settings.states == "host":
        return HostAdamW(groups, **common)
    fused = all(p.device.type in ("cuda", "cpu", "xpu", "mps") and p.is_floating_point() for p in trainable)
    optimizer = torch.optim.AdamW(groups, **common, fused=fused)
    # says that a float16 gradient scaler may leave unscaling to the kernel, for which Lightning refuses to clip;
    # there is no such scaler in any precision that lit-long allows
    optimizer._step_supports_amp_scaling = False
    return optimizer


def reapply(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LambdaLR, settings: OptimizerSettings
) -> None:
    """After a checkpoint was restored: let the settings of this run win over those stored in it.

    Optimizer and scheduler states carry the old peak rate, betas and weight decay; moments and step count stay.

    Raises:
        UserError: the restored moments are kept in another way than ``settings.states`` asks for.
    """
    _check_states(optimizer, settings)
    for group in optimizer.param_groups:
        decays = any(p.ndim >= 2 for p in group["params"])
        group.update(
            initial_lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay if decays else 0.0,
        )
    scheduler.base_lrs = [settings.learning_rate] * len(optimizer.param_groups)
    factor = scheduler.lr_lambdas[0](scheduler.last_epoch)
    for group in optimizer.param_groups:
        rate = settings.learning_rate * factor
        if isinstance(group["lr"], torch.Tensor):  # torchao compiles with it
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def _check_states(optimizer: torch.optim.Optimizer, settings: OptimizerSettings) -> None:
    moments = [state["exp_avg"] for state in optimizer.state.values() if "exp_avg" in state]
    low_bit = any(is_low_bit(moment) for moment in moments)
    # 8-bit states are for parameters of 4,096 numbers and more
    large = any(not is_low_bit(moment) and moment.numel() >= 4096 and moment.numel() % 256 == 0 for moment in moments)
    if (settings.states == "8bit" and large and not low_bit) or (settings.states != "8bit" and low_bit):
        found = "8bit" if low_bit else "float32 or host"
        raise UserError(
            f"the checkpoint's optimizer states are {found}, and optimizer.states is {settings.states}; resume with "
            f"what it was started with"
        )
