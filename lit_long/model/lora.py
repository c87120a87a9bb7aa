"""LoRA through peft, with what long context needs beside it: trainable embeddings and norms.

LongLoRA (Chen et al. 2023, section 3.3) found that low-rank attention updates alone do not close the gap to full
training at a new length; with embeddings and norms trainable they do. Those tensors are small, are trained in full, and
stay part of the model itself (peft's ``modules_to_save`` would copy them and break tied embeddings).
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import nn

from lit_long.errors import UserError


@dataclass(kw_only=True)
class LoraSettings:
    """Low-rank adapters.

    Args:
        r: rank.
        alpha: scaling numerator; the update is alpha / r * B A.
        dropout: dropout on the adapters' input.
        target_modules: names of the linear layers that get adapters.
        train_embeddings: also train the token embeddings (and the output embeddings, if they are separate).
        train_norms: also train the normalisation layers.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    train_embeddings: bool = True
    train_norms: bool = True

    def __post_init__(self) -> None:
        if self.r < 1:
            raise UserError(f"lora.r is {self.r}; a rank is at least 1")


def add_lora(model: Any, settings: LoraSettings) -> Any:
    """Wrap ``model`` with adapters; everything but adapters and the chosen tensors is frozen.

    Raises:
        UserError: no module of the model has one of the target names.
    """
    from peft import LoraConfig, get_peft_model

    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if missing := sorted(set(settings.target_modules) - names):
        raise UserError(f"lora.target_modules: the model has no linear layer {missing}; it has {sorted(names)}")
    seed = int(torch.randint(2**62, (), device="cpu"))  # also where a model is made on the meta device
    wrapped = get_peft_model(
        model,
        LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.target_modules),
            task_type="CAUSAL_LM",
        ),
    )
    _draw(wrapped, seed)
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    for module in wrapped.modules():
        is_norm = "norm" in type(module).__name__.lower()
        if (settings.train_norms and is_norm) or (settings.train_embeddings and module in embeddings):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(True)
    return wrapped


def _draw(wrapped: nn.Module, seed: int) -> None:
    """First values of the adapters, from one seed in the order of the modules.

    peft gives those of a model on the meta device none; so that sharding changes nothing, all are drawn here.
    """
    from peft.tuners.lora import LoraLayer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in wrapped.modules():
            if not isinstance(layer, LoraLayer):
                continue
            for name in layer.lora_A:
                for adapters in (layer.lora_A, layer.lora_B):
                    empty: Any = adapters[name]
                    if empty.weight.is_meta:
                        adapters[name] = empty.to_empty(device="cpu")
                layer.reset_lora_parameters(name, True)


def plain_lora_config(model: Any) -> dict[str, Any] | None:
    """The peft configuration as plain values for a checkpoint; None for a model without adapters."""
    if not hasattr(model, "peft_config"):
        return None
    config = model.peft_config["default"].to_dict()
    return {k: _plain(v) for k, v in config.items() if v is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, set | tuple | list):
        return [_plain(v) for v in (sorted(value) if isinstance(value, set) else value)]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Enum):  # peft's are strings by type, but torch.load(weights_only=True) refuses them
        value = value.value
    return value if isinstance(value, bool | int | float | str | None) else str(value)
