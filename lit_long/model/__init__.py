"""Hugging Face causal LMs made ready for long context: rope before weights, packed attention, LoRA, exact loss head."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "LoadedModel": "lit_long.model.inference",
    "Levers": "lit_long.model.levers",
    "LoraSettings": "lit_long.model.lora",
    "ModelSpec": "lit_long.model.build",
    "ModelFacts": "lit_long.model.memory",
    "RunFacts": "lit_long.model.memory",
    "apply_levers": "lit_long.model.levers",
    "build_model": "lit_long.model.build",
    "choose_levers": "lit_long.model.choose",
    "load_for_inference": "lit_long.model.inference",
    "next_token_loss": "lit_long.model.forward",
}
__all__ = [
    "Levers",
    "LoadedModel",
    "LoraSettings",
    "ModelFacts",
    "ModelSpec",
    "RunFacts",
    "apply_levers",
    "build_model",
    "choose_levers",
    "load_for_inference",
    "next_token_loss",
]

if TYPE_CHECKING:
    from lit_long.model.build import ModelSpec, build_model
    from lit_long.model.choose import choose_levers
    from lit_long.model.forward import next_token_loss
    from lit_long.model.inference import LoadedModel, load_for_inference
    from lit_long.model.levers import Levers, apply_levers
    from lit_long.model.lora import LoraSettings
    from lit_long.model.memory import ModelFacts, RunFacts


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_long.model' has no attribute {name!r}")
