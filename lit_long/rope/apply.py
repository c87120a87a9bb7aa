"""Put a scaling into a Hugging Face config, before any weight is loaded.

The rotary buffers of a model are computed from its config at construction and are in no state dict, so the config is
the one place where a scaling can be set and the one place from which a reloaded model gets it back.
"""

import copy
from typing import TYPE_CHECKING, Any

from lit_long.errors import UserError
from lit_long.rope.base import RopeScaling
from lit_long.rope.geometry import RopeGeometry
from lit_long.rope.registry import rope_method

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def scale_rope(config: "PreTrainedConfig", scaling: RopeScaling | str, context_length: int) -> "PreTrainedConfig":
    """Copy a config with its positions scaled to ``context_length``.

    Args:
        config: Config of an untouched decoder; it is not changed.
        scaling: A method, or the name of one with its default options.
        context_length: Wanted context in tokens, at least the model's native length. Becomes
            ``max_position_embeddings``, also for ``none``.

    Returns:
        A deep copy. Build the model from it, then prove the live model with :func:`~lit_long.rope.verify_rope`.

    Raises:
        UserError: The model or the method does not allow it; the message says what to do.
    """
    method = rope_method(scaling) if isinstance(scaling, str) else scaling
    geometry = RopeGeometry.from_config(config)
    parameters = method.rope_parameters(geometry, context_length)
    scaled = copy.deepcopy(config)
    scaled.rope_parameters = dict(parameters)
    scaled.max_position_embeddings = context_length
    for key, value in method.config_extras().items():
        setattr(scaled, key, dict(value))
    _require_reload(scaled, parameters, method)
    return scaled


def _require_reload(scaled: "PreTrainedConfig", parameters: dict[str, Any], method: RopeScaling) -> None:
    """Refuse a config that does not come back from its own file: some rewrite ``rope_parameters`` (Phi-3: yarn)."""
    advice = "use 'abf', which only changes the base"
    try:
        reloaded = type(scaled).from_dict(scaled.to_dict()).rope_parameters
    except Exception as error:  # each config class raises its own type
        raise UserError(
            f"model type {scaled.model_type!r} does not accept rope method {method.name!r} ({error}): {advice}."
        ) from error
    if reloaded != parameters:
        raise UserError(
            f"model type {scaled.model_type!r} rewrites the rope_parameters of method {method.name!r} on loading, from "
            f"{parameters} to {reloaded}: {advice}."
        )
