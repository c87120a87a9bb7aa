"""How xPos stands in a transformers config: ``rope_type: xpos`` with ``xpos_scale_base``.

A type of its own on purpose: transformers without lit-long, and every engine, stops at it, where ``default`` with one
more key would load and silently leave the decay out. transformers looks rope types up in a table that it lets others
extend (``ROPE_INIT_FUNCTIONS``); the entry gives plain frequencies, and lit-long's attention does the scaling.
"""

from typing import Any

from torch import Tensor

from lit_long.rope.formulas import plain_inv_freq

XPOS = "xpos"
SCALE_BASE_KEY = "xpos_scale_base"


def xpos_scale_base(config: Any) -> float | None:
    """The scale base that a transformers config (or None) asks for, in tokens; None without xPos."""
    parameters = getattr(config, "rope_parameters", None)
    if not parameters or parameters.get("rope_type") != XPOS:
        return None
    return float(parameters[SCALE_BASE_KEY])


def rotary_dimensions(config: Any) -> int:
    """Rotary dimensions of a head."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(head_dim * (config.rope_parameters.get("partial_rotary_factor") or 1.0))


def register_xpos() -> None:
    """Teach transformers the rope type, once in a process; needed before a model with it is built or loaded."""
    from transformers import modeling_rope_utils as rope_utils

    rope_utils.ROPE_INIT_FUNCTIONS.setdefault(XPOS, _inv_freq)
    # transformers asks its config class for this name, and warns at every config where there is none
    if not hasattr(rope_utils.RotaryEmbeddingConfigMixin, f"_validate_{XPOS}_rope_parameters"):
        setattr(rope_utils.RotaryEmbeddingConfigMixin, f"_validate_{XPOS}_rope_parameters", _check_parameters)


def _inv_freq(config: Any, device: Any = None, **options: Any) -> tuple[Tensor, float]:
    """Plain frequencies, float32 [dim/2], and no scale of cos and sin: in the signature of transformers' table."""
    frequencies = plain_inv_freq(rotary_dimensions(config), float(config.rope_parameters["rope_theta"]))
    return frequencies.float().to(device), 1.0


def _check_parameters(config: Any, rope_parameters: dict[str, Any], **options: Any) -> None:
    for key in ("rope_theta", SCALE_BASE_KEY):
        if not rope_parameters.get(key, 0) > 0:
            raise ValueError(f"rope_parameters of type {XPOS!r} need a positive {key}, got {rope_parameters.get(key)}")
