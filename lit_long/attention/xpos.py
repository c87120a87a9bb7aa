"""xPos: queries and keys scaled by their position, so that scores decay with distance (Sun et al. 2022)."""

from typing import Any

import torch

from lit_long.attention.backends.case import States
from lit_long.attention.boundaries import Boundaries
from lit_long.errors import UserError
from lit_long.rope.methods.xpos import xpos_log_zeta

# rotary over the whole head, pairs (j, j + d/2), queries and keys handed on as they were rotated
_KNOWN = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma", "olmo", "olmo2", "granite")


def require_xpos_model(config: Any) -> None:
    """Refuse models whose rotary pairs lie elsewhere.

    Raises:
        UserError: a model type that is not known to fit, or one that rotates a part of the head only.
    """
    partial = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor", 1.0)
    if config.model_type not in _KNOWN or partial != 1.0:
        raise UserError(
            f"rope method 'xpos_abf' is not known to fit {config.model_type!r}"
            f"{'' if partial == 1.0 else f' with partial_rotary_factor {partial:g}'}; it does {', '.join(_KNOWN)} with "
            f"rotary positions on the whole head"
        )


def apply_xpos(module: Any, states: States, bounds: Boundaries) -> States:
    """Scale queries and keys where the model's config says so; values are left alone.

    Args:
        module: the attention layer; ``module.config.lit_long_xpos`` has the ``scale_base``.
        states: query [B, T, H, D], key [B, T, K, D], value.
        bounds: documents; positions are counted from the middle of each, which changes no score.
    """
    setting = getattr(getattr(module, "config", None), "lit_long_xpos", None)
    if setting is None:
        return states
    query, key, value = states
    log_zeta = xpos_log_zeta(query.shape[-1]).to(query.device, torch.float64)
    power = bounds.centred[:, None] * (log_zeta / setting["scale_base"])  # [B*T, D/2]
    power = torch.cat([power, power], dim=-1).unflatten(0, (bounds.rows, bounds.tokens)).unsqueeze(2)
    wide = torch.promote_types(query.dtype, torch.float32)
    up = power.exp().to(wide)
    return (query.to(wide) * up).to(query.dtype), (key.to(wide) / up).to(key.dtype), value
