"""RoPE as transformers 4 reads it: from top-level ``rope_theta`` and ``rope_scaling`` alone, in float64.

A second, independent implementation on purpose. The proof compares it with the live model, so an export whose old keys
are missing or stale is refused, and so is one whose live frequencies are not those of the formula.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch


def legacy_rope(config: Mapping[str, Any]) -> tuple[torch.Tensor, float]:
    """Frequencies by the rule of transformers 4.

    Args:
        config: Raw content of config.json; ``rope_parameters`` is not looked at.

    Returns:
        ``inv_freq``, float64 [D/2] with D rotated dimensions of a head, in radians per token, and the factor on cos
        and sin.

    Raises:
        ValueError: A ``rope_type`` without a rule here.
    """
    base = float(config.get("rope_theta", 10_000.0))
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    dim = int(head_dim * config.get("partial_rotary_factor", 1.0))
    inv_freq = base ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("default", "xpos"):  # xPos: the release's own code; its frequencies are plain
        return inv_freq, 1.0
    if kind == "linear":
        return inv_freq / scaling["factor"], 1.0
    if kind == "llama3":
        return _llama3(inv_freq, scaling), 1.0
    if kind == "yarn":
        return _yarn(inv_freq, base, dim, scaling, config["max_position_embeddings"])
    raise ValueError(f"no transformers 4 rule for rope_type {kind!r}")


def _llama3(inv_freq: torch.Tensor, scaling: Mapping[str, Any]) -> torch.Tensor:
    """Llama 3.1: slow frequencies are divided by the factor, fast ones kept, a ramp between (in turns per context)."""
    turns = scaling["original_max_position_embeddings"] * inv_freq / (2 * math.pi)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return inv_freq * (kept + (1 - kept) / scaling["factor"])


def _yarn(
    inv_freq: torch.Tensor, base: float, dim: int, scaling: Mapping[str, Any], max_positions: int
) -> tuple[torch.Tensor, float]:
    """YaRN (Peng et al. 2023, section 3.2): a ramp over dimensions between interpolated and original frequencies."""
    factor, original = scaling["factor"], scaling.get("original_max_position_embeddings") or max_positions

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    interpolated = ((torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    attention = scaling.get("attention_factor")
    if attention is None:
        mscale, all_dim = scaling.get("mscale"), scaling.get("mscale_all_dim")
        attention = _mscale(factor, mscale) / _mscale(factor, all_dim) if mscale and all_dim else _mscale(factor, 1.0)
    return inv_freq * (interpolated / factor + 1 - interpolated), float(attention)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
