"""What there is to set of the optimizer.

Llama 2 (Touvron et al. 2023, section 2.2): beta 0.9 / 0.95, eps 1e-5, weight decay 0.1, cosine to 10 % of the peak;
Llama 2 Long: 2,000 warm-up steps, peak 2e-5 (7B, 13B) or 1e-5 (34B, 70B) for continual pretraining.
"""

from dataclasses import dataclass
from typing import Literal

from lit_long.errors import UserError
from lit_long.optim.low_bit import require_torchao


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
        states: where and how AdamW's two moments are kept: ``float32``; ``8bit`` (a quarter of it; needs torchao);
            ``host`` (float32 in CPU memory, and the update is made there; one GPU or DDP).
    """

    learning_rate: float = 2e-5
    warmup_steps: int = 2000
    final_lr_ratio: float = 0.1
    rewarm_steps: int = 0
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-5
    weight_decay: float = 0.1
    states: Literal["float32", "8bit", "host"] = "float32"

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise UserError(f"optimizer.learning_rate is {self.learning_rate}; it must be above 0")
        if self.warmup_steps < 0:
            raise UserError(f"optimizer.warmup_steps is {self.warmup_steps}; it must be 0 or more")
        if self.rewarm_steps < 0:
            raise UserError(f"optimizer.rewarm_steps is {self.rewarm_steps}; it must be 0 or more")
        if not 0 <= self.final_lr_ratio <= 1:
            raise UserError(f"optimizer.final_lr_ratio is {self.final_lr_ratio}; it must be between 0 and 1")
        if self.states == "8bit":
            require_torchao()
