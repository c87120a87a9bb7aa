"""Change the positions of a live model between two stages of training, as if it had been built with them.

Rotary frequencies are computed when a model is built and are in no checkpoint, so another scaling means: write it into
the live config, let the model's own rotary class compute its buffers from that config, copy them over, verify. Weights,
optimizer and everything else stay.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lit_long.errors import UserError
from lit_long.rope.base import RopeScaling
from lit_long.rope.geometry import RopeGeometry
from lit_long.rope.registry import rope_methods
from lit_long.rope.verify import RopeReport, rotary_modules, verify_rope


@torch.no_grad()
def switch_rope(model: nn.Module, scaling: RopeScaling, native: RopeGeometry, context_length: int) -> RopeReport:
    """Give a live model other rotary positions, in place, and prove them.

    Only rotary modules and the config change. A model class that also scales attention by its rope (DeepSeek's YaRN)
    is not served by this; :func:`lit_long.model.rope_stages.check_stages` finds out.

    Args:
        model: The model, bare or inside wrappers, on any device but meta.
        scaling: The new method, as applied to the untouched model (scalings do not add up).
        native: Geometry of the config before any scaling.
        context_length: Context in tokens that the new method is for.

    Returns:
        What :func:`~lit_long.rope.verify_rope` measured afterwards.

    Raises:
        UserError: The method does not fit the model, or the model's rotary class is built from more than a config.
        RopeMismatchError: The positions are not the formula's afterwards.
    """
    parameters = scaling.rope_parameters(native, context_length)
    for config in _configs(model):
        config.rope_parameters = dict(parameters)
        config.max_position_embeddings = context_length
        for key in {key for method in rope_methods().values() for key in method().config_extras()}:
            if (extra := scaling.config_extras().get(key)) is not None:
                setattr(config, key, dict(extra))
            elif hasattr(config, key):
                delattr(config, key)
    for name, module, inv_freq in list(rotary_modules(model)):
        try:
            with torch.device("cpu"):  # as transformers builds it
                fresh = type(module)(getattr(module, "config", None))
        except Exception as error:  # each model class raises its own type
            raise UserError(
                f"{name} ({type(module).__name__}) cannot be built from the config alone ({error}), so its positions "
                "cannot change during a run: train each stage as a run of its own, with export between them."
            ) from error
        _take_over(module, fresh, inv_freq.device)
    return verify_rope(model, scaling, native, context_length)


def _configs(model: nn.Module) -> list[Any]:
    """Each config object that states positions; most modules share one."""
    found = {id(config): config for m in model.modules() if (config := vars(m).get("config")) is not None}
    return [config for config in found.values() if getattr(config, "rope_parameters", None)]


def _take_over(module: nn.Module, fresh: nn.Module, device: torch.device) -> None:
    """Copy buffers in place (they keep their address) and plain attributes of a fresh rotary module."""
    for name, value in fresh.named_buffers(recurse=False):
        getattr(module, name).copy_(value)
    for name, value in vars(fresh).items():
        if not name.startswith("_") and name not in ("config", "training"):
            setattr(module, name, value.to(device) if isinstance(value, Tensor) else value)
