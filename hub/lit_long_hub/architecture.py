"""What a Hugging Face architecture expects in its files: names, shapes, tied weights; built on the meta device.

The names of a checkpoint are matched against it before anything is written: a tensor too many, too few or of another
shape is an error with its name, instead of a folder in which transformers silently re-initialises a layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long.rope.xpos import register_xpos
from lit_long_hub.custom_code import CustomCode, custom_code
from lit_long_hub.weights import TensorSpec

_NAMED_IN_ERRORS = 5


@dataclass(frozen=True)
class Architecture:
    """A causal LM without its weights."""

    config: Any
    """The transformers config, as the checkpoint has it."""

    model_class: Any
    """The transformers class that was trained, for example ``LlamaForCausalLM``."""

    shapes: dict[str, tuple[int, ...]]
    """Name to shape of every tensor a release stores, in the model's order; a tied weight is there once."""

    aliases: dict[str, str]
    """Other names of tied tensors, to the name that is stored: ``{"lm_head.weight": "model.embed_tokens.weight"}``."""

    custom_code: CustomCode | None = None
    """Code that the release needs, with the same tensors; None where it loads as ``model_class``."""


def read_architecture(config_dict: Mapping[str, Any]) -> Architecture:
    """Build the architecture of a config.

    Args:
        config_dict: ``config.to_dict()`` of the trained model.

    Raises:
        UserError: An unknown ``model_type``, xPos on a family without code for it, a quantised model, or one whose file
            names differ from its own names (mixture-of-experts models in transformers 5 fuse experts in memory).
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = str(config_dict["model_type"])
    if model_type not in CONFIG_MAPPING:
        raise UserError(
            f"transformers has no model type {model_type!r}: models with their own code cannot be exported, since "
            "plain transformers could not load them."
        )
    code = custom_code(config_dict)
    if code is not None:
        register_xpos()
    if config_dict.get("quantization_config"):
        raise UserError("Quantised models cannot be exported: train from unquantised weights.")
    # Attention of the training run (packed documents) must not leak into the model that a reader loads.
    plain = {key: value for key, value in config_dict.items() if "attn_implementation" not in key}
    config = CONFIG_MAPPING[model_type].from_dict(plain)
    try:
        with torch.device("meta"):
            skeleton = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise UserError(f"{model_type!r} has no causal language model in transformers: {error}") from error
    _refuse_renamed(skeleton, model_type)
    aliases = _aliases(skeleton)
    shapes = {name: tuple(value.shape) for name, value in skeleton.state_dict().items() if name not in aliases}
    return Architecture(config, type(skeleton), shapes, aliases, code)


def _refuse_renamed(skeleton: Any, model_type: str) -> None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    if any(get_checkpoint_conversion_mapping(key) for key in (type(skeleton).__name__, model_type)):
        raise UserError(
            f"{model_type!r} stores its weights under other names than it uses in memory (mixture of experts): "
            "exporting such models is not supported yet."
        )


def _aliases(skeleton: torch.nn.Module) -> dict[str, str]:
    declared = getattr(skeleton, "_tied_weights_keys", None) or {}
    groups: dict[int, list[str]] = {}
    for name, parameter in skeleton.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    aliases = {}
    for names in groups.values():
        # transformers names the copies in _tied_weights_keys; what is left is the tensor that files keep.
        kept = next((name for name in names if name not in declared), names[0])
        aliases.update({name: kept for name in names if name != kept})
    return aliases


def match_names(architecture: Architecture, specs: Mapping[str, TensorSpec], *, source: str) -> dict[str, str]:
    """Find every stored tensor in a source.

    Args:
        architecture: What is expected.
        specs: What the source has.
        source: What to call it in an error ("the checkpoint", "the base model").

    Returns:
        Stored name to the source's name, in the model's order.

    Raises:
        UserError: Missing, unexpected or mis-shaped tensors, with their names.
    """
    reverse: dict[str, list[str]] = {}
    for alias, kept in architecture.aliases.items():
        reverse.setdefault(kept, []).append(alias)
    found: dict[str, str] = {}
    for name in architecture.shapes:
        present = [candidate for candidate in (name, *reverse.get(name, [])) if candidate in specs]
        if present:
            found[name] = present[0]
    problems = []
    if missing := [name for name in architecture.shapes if name not in found]:
        problems.append(f"missing {_listed(missing)}")
    known = architecture.shapes.keys() | architecture.aliases.keys()
    if unexpected := [name for name in specs if name not in known]:
        problems.append(f"unexpected {_listed(unexpected)}")
    misshaped = [
        f"{stored} {list(specs[name].shape)} instead of {list(architecture.shapes[stored])}"
        for stored, name in found.items()
        if specs[name].shape != architecture.shapes[stored]
    ]
    if misshaped:
        problems.append(f"mis-shaped {_listed(misshaped)}")
    if problems:
        raise UserError(
            f"The tensors of {source} do not fit {architecture.model_class.__name__}: {'; '.join(problems)}. "
            "The weights and the config must come from the same model."
        )
    return found


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED_IN_ERRORS])
    return shown if len(names) <= _NAMED_IN_ERRORS else f"{shown} and {len(names) - _NAMED_IN_ERRORS} more"
