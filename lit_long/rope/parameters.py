"""What a transformers-5 ``rope_parameters`` dictionary means: its frequencies, its scale, its rounding.

One place knows the key names, so that a model which is already scaled (Llama 3.1, gpt-oss) can be proved like one
that lit-long scales itself. Only rope types with a static formula are known; ``dynamic`` and ``longrope`` change
their frequencies with the length of the batch, which packed long sequences make ill-defined.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lit_long.errors import UserError
from lit_long.rope.formulas import (
    linear_inv_freq,
    llama3_inv_freq,
    plain_inv_freq,
    yarn_attention_factor,
    yarn_inv_freq,
)

ROPE_TYPES = ("default", "linear", "yarn", "llama3", "xpos")
"""The ``rope_type`` values whose formula lit-long knows."""

# Keys that belong to one scaling; every other key (partial_rotary_factor, mrope_section) describes the architecture.
SCALING_KEYS = frozenset(
    {
        "rope_type",
        "type",
        "rope_theta",
        "factor",
        "original_max_position_embeddings",
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
        "low_freq_factor",
        "high_freq_factor",
        "xpos_scale_base",
    }
)


def require_known_type(rope_type: str, model_type: str = "") -> None:
    """Raise :class:`~lit_long.errors.UserError` by name for a ``rope_type`` without a static formula."""
    if rope_type not in ROPE_TYPES:
        of_model = f" of model type {model_type!r}" if model_type else ""
        raise UserError(
            f"rope_type {rope_type!r}{of_model} has no formula in lit-long, which knows {', '.join(ROPE_TYPES)}. "
            "Start from a checkpoint that has one of these."
        )


def inv_freq_of(parameters: Mapping[str, Any], dim: int) -> Tensor:
    """Frequencies that a ``rope_parameters`` dictionary stands for.

    Args:
        parameters: Flat dictionary as transformers 5 writes it, ``rope_theta`` and ``rope_type`` included.
        dim: Rotary dimensions of a head.

    Returns:
        Frequencies in radians a token, float64, shape [dim/2].

    Raises:
        UserError: The rope type is unknown, or a key that it needs is missing.
    """
    rope_type, base = parameters["rope_type"], float(parameters["rope_theta"])
    require_known_type(rope_type)
    if rope_type in ("default", "xpos"):  # xPos turns as plain RoPE does; its decay is attention's
        return plain_inv_freq(dim, base)
    factor = float(_required(parameters, "factor"))
    if rope_type == "linear":
        return linear_inv_freq(dim, base, factor)
    original_length = int(_required(parameters, "original_max_position_embeddings"))
    if rope_type == "yarn":
        return yarn_inv_freq(
            dim,
            base,
            factor=factor,
            original_length=original_length,
            beta_fast=parameters.get("beta_fast") or 32.0,
            beta_slow=parameters.get("beta_slow") or 1.0,
            truncate=parameters.get("truncate", True),
        )
    return llama3_inv_freq(
        dim,
        base,
        factor=factor,
        low_freq_factor=float(_required(parameters, "low_freq_factor")),
        high_freq_factor=float(_required(parameters, "high_freq_factor")),
        original_length=original_length,
    )


def attention_factor_of(parameters: Mapping[str, Any]) -> float:
    """Scale of cos and sin that a ``rope_parameters`` dictionary stands for; 1 for every type but ``yarn``."""
    if parameters["rope_type"] != "yarn":
        return 1.0
    explicit = parameters.get("attention_factor")
    if explicit is not None:
        return float(explicit)
    factor = float(_required(parameters, "factor"))
    return yarn_attention_factor(factor, parameters.get("mscale"), parameters.get("mscale_all_dim"))


def rounding_tolerance(parameters: Mapping[str, Any]) -> float:
    """Largest relative distance from our float64 frequencies that honest float32 arithmetic can show.

    A model computes ``base^x`` in float32. Rounding ``x`` costs ``ln(base)`` half units of the last place, the power,
    the reciprocal and the scaling a few more, so ``(8 + ln base) * 2^-23`` covers it (2.5e-6 at base 500,000; a
    bfloat16 buffer is off by 2e-3, a base wrong by 1 in 100,000 by 1e-5). Llama 3's mix is steep in the frequency:
    its condition number, derived from :func:`~lit_long.rope.formulas.llama3_inv_freq`, multiplies the bound.
    """
    unit = (8 + math.log(float(parameters["rope_theta"]))) * 2.0**-23
    if parameters["rope_type"] != "llama3":
        return unit
    factor, low, high = (float(parameters[key]) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    return unit * (1 + (1 - 1 / factor) * max(factor * low, high) / (high - low))


def _required(parameters: Mapping[str, Any], key: str) -> Any:
    value = parameters.get(key)
    if value is None:
        raise UserError(
            f"rope_parameters of type {parameters['rope_type']!r} lacks {key!r}; it has {sorted(parameters)}. "
            "Add it to the model's config.json."
        )
    return value
