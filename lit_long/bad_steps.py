"""What happens at an optimizer step whose loss or gradient is not a number, or far beyond those before.

The judgement uses values that are the same on every rank, and its memory is in the checkpoint: a resumed run judges
alike. A step that is skipped changes no weight and no optimizer state; the learning rate, the data order and the step
count go on, so nothing after it is shifted.
"""

import math
from collections import deque
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from lit_long.errors import UserError

WINDOW = 128  # good steps whose median is the measure
ENOUGH = 16  # good steps before which nothing is compared with their median


@dataclass(frozen=True, kw_only=True)
class BadSteps:
    """Which steps are bad, and what to do. A loss or gradient norm that is NaN or infinite always is.

    Args:
        action: ``stop`` the run (with an error), or ``skip`` the step's update.
        max_skipped: after so many skipped in a row, the run stops.
        loss_above: a loss of more than so many times the median of the last 128 good steps is bad, too, once there
            are 16; None: it is not.
        grad_norm_above: the same for the gradient norm before clipping.

    Raises:
        UserError: a factor that is not above 1, or a number of steps below 1.
    """

    action: Literal["stop", "skip"] = "stop"
    max_skipped: int = 10
    loss_above: float | None = None
    grad_norm_above: float | None = None

    def __post_init__(self) -> None:
        for name in ("loss_above", "grad_norm_above"):
            if (factor := getattr(self, name)) is not None and factor <= 1:
                raise UserError(f"bad_steps.{name} is {factor}; it is a factor on the median and must be above 1")
        if self.max_skipped < 1:
            raise UserError(f"bad_steps.max_skipped is {self.max_skipped}; it must be 1 or more")


class StepJudge:
    """Judges one step after another.

    Attributes:
        skipped: steps skipped so far.
    """

    def __init__(self, settings: BadSteps) -> None:
        self.settings = settings
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self.skipped = self._in_a_row = 0

    def reason(self, loss: float, norm: float) -> str | None:
        """Why a step is bad, or None; a good one becomes part of the measure."""
        why = self._why("loss", loss, self._losses, self.settings.loss_above) or self._why(
            "gradient norm", norm, self._norms, self.settings.grad_norm_above
        )
        if why is None:
            self._losses.append(loss)
            self._norms.append(norm)
            self._in_a_row = 0
        return why

    def _why(self, name: str, value: float, before: deque[float], factor: float | None) -> str | None:
        if not math.isfinite(value):
            return f"its {name} is {value}"
        if factor is None or len(before) < ENOUGH:
            return None
        middle = median(before)
        if value <= factor * middle:
            return None
        return f"its {name} {value:.4g} is more than {factor:g} times the median {middle:.4g} of {len(before)} steps"

    def skips(self) -> bool:
        """Whether the step that was just found bad is skipped; False: the run stops."""
        if self.settings.action == "stop" or self._in_a_row >= self.settings.max_skipped:
            return False
        self.skipped += 1
        self._in_a_row += 1
        return True

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "losses": list(self._losses),
            "norms": list(self._norms),
            "skipped": self.skipped,
            "in_a_row": self._in_a_row,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint was."""
        self._losses.extend(state["losses"])
        self._norms.extend(state["norms"])
        self.skipped, self._in_a_row = int(state["skipped"]), int(state["in_a_row"])
