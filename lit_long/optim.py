"""AdamW with the Llama 2 settings, and a learning rate that is a pure function of the step.

Llama 2 (Touvron et al. 2023, section 2.2): beta 0.9 / 0.95, eps 1e-5, weight decay 0.1, cosine to 10 % of the peak;
Llama 2 Long: 2,000 warm-up steps, peak 2e-5 (7B, 13B) or 1e-5 (34B, 70B) for continual pretraining.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lit_long.errors import UserError


@dataclass(kw_only=True)
class OptimizerSettings:
    """AdamW and its schedule.

    Args:
        learning_rate: peak learning rate.
        warmup_steps: optimizer steps of linear warm-up.
        final_lr_ratio: learning rate at the last step, as a share of the peak.
        rewarm_steps: optimizer steps over which the rate comes back to the schedule at the start of each later stage of
            the data's schedule; 0: it goes on as if nothing had happened.
        betas: AdamW's two decay rates.
        eps: AdamW's epsilon.
        weight_decay: decoupled weight decay of matrices; vectors (norms, biases) have none.
    """

    learning_rate: float = 2e-5
    warmup_steps: int = 2000
    final_lr_ratio: float = 0.1
    rewarm_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"optimizer.learning_rate is {self.learning_rate}; it must be above 0")
        if self.warmup_steps < 0:
            raise UserError(f"optimizer.warmup_steps is {self.warmup_steps}; it must be 0 or more")
        if self.rewarm_steps < 0:
            raise UserError(f"optimizer.rewarm_steps is {self.rewarm_steps}; it must be 0 or more")
        if not 0 <= self.final_lr_ratio <= 1:
            raise UserError(f"optimizer.final_lr_ratio is {self.final_lr_ratio}; it must be between 0 and 1")


def lr_factor(
    step: int,
    *,
    steps: int,
    warmup_steps: int,
    final_lr_ratio: float,
    rewarm_steps: int = 0,
    stage_starts: Sequence[int] = (),
) -> float:
    """Share of the peak learning rate at optimizer step ``step`` (0-based) of ``steps``.

    Linear from 1/warmup_steps to 1, then half a cosine from 1 to ``final_lr_ratio`` at the last step. In the first
    ``rewarm_steps`` steps from each of ``stage_starts`` (first steps of the later stages, ascending), that value is
    multiplied by a line from 1/rewarm_steps to 1.
    """
    if step < warmup_steps:
        factor = (step + 1) / warmup_steps
    else:
        progress = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
        factor = final_lr_ratio + (1 - final_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))
    since = min((step - start for start in stage_starts if start <= step), default=rewarm_steps)
    return factor * (since + 1) / rewarm_steps if since < rewarm_steps else factor


def adamw(parameters: Iterable[nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW over the trainable ``parameters``, matrices with weight decay and vectors without."""
    trainable = [p for p in parameters if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
    )


def schedule(
    optimizer: torch.optim.Optimizer, settings: OptimizerSettings, steps: int, stage_starts: Sequence[int] = ()
) -> torch.optim.lr_scheduler.LambdaLR:
    """The learning-rate schedule over ``steps`` optimizer steps; ``stage_starts`` as in :func:`lr_factor`.

    Raises:
        UserError: the rate is to come back at later stages, and there are none.
    """
    if settings.rewarm_steps and not stage_starts:
        raise UserError(
            f"optimizer.rewarm_steps is {settings.rewarm_steps}, but the data has no later stage; leave it out, or "
            f"give data.schedule at least two stages"
        )

    def factor(step: int) -> float:
        return lr_factor(
            step,
            steps=steps,
            warmup_steps=settings.warmup_steps,
            final_lr_ratio=settings.final_lr_ratio,
            rewarm_steps=settings.rewarm_steps,
            stage_starts=stage_starts,
        )

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def reapply(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LambdaLR, settings: OptimizerSettings
) -> None:
    """After a checkpoint was restored: let the settings of this run win over those stored in it.

    Optimizer and scheduler states carry the old peak rate, betas and weight decay; moments and step count stay.
    """
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
        group["lr"] = settings.learning_rate * factor
