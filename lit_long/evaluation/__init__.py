"""Measure what a longer context is worth: loss by position, paired differences and truncated-context controls.

Names are loaded on first use (PEP 562), so importing the package costs no torch import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ContextGain": "lit_long.evaluation.truncation",
    "Estimate": "lit_long.evaluation.intervals",
    "PairedDifference": "lit_long.evaluation.position_loss",
    "PositionLoss": "lit_long.evaluation.position_loss",
    "PowerLaw": "lit_long.evaluation.power_law",
    "PowerLawFit": "lit_long.evaluation.power_law",
    "Windows": "lit_long.evaluation.windows",
    "context_gain": "lit_long.evaluation.truncation",
    "evaluate_models": "lit_long.evaluation.battery",
    "fit_power_law": "lit_long.evaluation.power_law",
    "loss_by_position": "lit_long.evaluation.position_loss",
    "paired_difference": "lit_long.evaluation.position_loss",
    "position_nll": "lit_long.evaluation.token_nll",
    "retrieval_grid": "lit_long.evaluation.retrieval.grid",
    "run_lm_eval": "lit_long.evaluation.harness.run",
    "take_windows": "lit_long.evaluation.windows",
}
__all__ = [
    "ContextGain",
    "Estimate",
    "PairedDifference",
    "PositionLoss",
    "PowerLaw",
    "PowerLawFit",
    "Windows",
    "context_gain",
    "evaluate_models",
    "fit_power_law",
    "loss_by_position",
    "paired_difference",
    "position_nll",
    "retrieval_grid",
    "run_lm_eval",
    "take_windows",
]

if TYPE_CHECKING:
    from lit_long.evaluation.battery import evaluate_models
    from lit_long.evaluation.harness.run import run_lm_eval
    from lit_long.evaluation.intervals import Estimate
    from lit_long.evaluation.position_loss import PairedDifference, PositionLoss, loss_by_position, paired_difference
    from lit_long.evaluation.power_law import PowerLaw, PowerLawFit, fit_power_law
    from lit_long.evaluation.retrieval.grid import retrieval_grid
    from lit_long.evaluation.token_nll import position_nll
    from lit_long.evaluation.truncation import ContextGain, context_gain
    from lit_long.evaluation.windows import Windows, take_windows


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_long.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
