"""Lightning callbacks: thin, each one hands over to a part of lit_long."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "DataReport": "lit_long.callbacks.data_report",
    "FinalCheckpoint": "lit_long.callbacks.final_checkpoint",
    "FlashAttention": "lit_long.callbacks.flash_attention",
    "LeakCheck": "lit_long.callbacks.leak_check",
    "LongContextEvaluation": "lit_long.callbacks.long_context_evaluation",
    "PlanReport": "lit_long.callbacks.plan_report",
    "Preemption": "lit_long.callbacks.preemption",
    "StepMetrics": "lit_long.callbacks.step_metrics",
    "StepProgress": "lit_long.callbacks.progress",
    "Throughput": "lit_long.callbacks.throughput",
}
__all__ = [
    "DataReport",
    "FinalCheckpoint",
    "FlashAttention",
    "LeakCheck",
    "LongContextEvaluation",
    "PlanReport",
    "Preemption",
    "StepMetrics",
    "StepProgress",
    "Throughput",
]

if TYPE_CHECKING:
    from lit_long.callbacks.data_report import DataReport
    from lit_long.callbacks.final_checkpoint import FinalCheckpoint
    from lit_long.callbacks.flash_attention import FlashAttention
    from lit_long.callbacks.leak_check import LeakCheck
    from lit_long.callbacks.long_context_evaluation import LongContextEvaluation
    from lit_long.callbacks.plan_report import PlanReport
    from lit_long.callbacks.preemption import Preemption
    from lit_long.callbacks.progress import StepProgress
    from lit_long.callbacks.step_metrics import StepMetrics
    from lit_long.callbacks.throughput import Throughput


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_long.callbacks' has no attribute {name!r}")
