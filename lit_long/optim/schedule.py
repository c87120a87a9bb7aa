"""A learning rate that is a pure function of the step."""

import math
from collections.abc import Sequence

import torch

from lit_long.errors import UserError
from lit_long.optim.settings import OptimizerSettings


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
