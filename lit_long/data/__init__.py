"""Data: raw text to token corpora on disk, and token corpora to packed batches in an order fixed by the step number."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "InstructData": "lit_long.data.instruct.data",
    "InstructSource": "lit_long.data.instruct.build",
    "LengthSchedule": "lit_long.data.schedule",
    "LongUpsample": "lit_long.data.mixture",
    "Mixture": "lit_long.data.mixture",
    "MixtureSource": "lit_long.data.mixture",
    "PretrainData": "lit_long.data.pretrain",
    "Stage": "lit_long.data.schedule",
    "StepPlan": "lit_long.data.plan",
    "TokenCorpus": "lit_long.data.corpus",
}
__all__ = [
    "InstructData",
    "InstructSource",
    "LengthSchedule",
    "LongUpsample",
    "Mixture",
    "MixtureSource",
    "PretrainData",
    "Stage",
    "StepPlan",
    "TokenCorpus",
]

if TYPE_CHECKING:
    from lit_long.data.corpus import TokenCorpus
    from lit_long.data.instruct.build import InstructSource
    from lit_long.data.instruct.data import InstructData
    from lit_long.data.mixture import LongUpsample, Mixture, MixtureSource
    from lit_long.data.plan import StepPlan
    from lit_long.data.pretrain import PretrainData
    from lit_long.data.schedule import LengthSchedule, Stage


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_long.data' has no attribute {name!r}")
