"""The position geometry of a model as it comes: rotary dimensions, base, length and any scaling it already has.

Read once from the untouched config and kept beside the run, because after scaling the config no longer tells what
the model was trained with (``max_position_embeddings`` is overwritten).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lit_long.errors import UserError
from lit_long.rope.formulas import xpos_decay
from lit_long.rope.parameters import SCALING_KEYS, attention_factor_of, inv_freq_of, require_known_type

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True, kw_only=True)
class RopeGeometry:
    """Rotary position geometry of a model before lit-long touches it.

    Attributes:
        dim: Rotary dimensions of a head (after ``partial_rotary_factor``), even or odd as the model has it.
        base: RoPE base, ``rope_theta``.
        native_length: Longest context that the config claims, ``max_position_embeddings``, in tokens.
        rope_type: The scaling that the model already has; ``"default"`` is plain RoPE.
        parameters: The model's own ``rope_parameters``, for the keys beyond type and base. Plain JSON values, never
            changed after construction; left out of the hash.

    Raises:
        UserError: A dimension, base or length out of range, or a rope type without a formula.
    """

    dim: int
    base: float
    native_length: int
    rope_type: str = "default"
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.dim < 2 or self.base <= 1 or self.native_length < 1:
            raise UserError(
                "rotary positions need at least 2 dimensions, a base above 1 and a length of at least 1, got "
                f"dim {self.dim}, base {self.base:g}, native_length {self.native_length}: correct the model's config."
            )
        require_known_type(self.rope_type)

    @classmethod
    def from_config(cls, config: "PreTrainedConfig") -> "RopeGeometry":
        """Read the geometry of a transformers-5 config; ``rope_theta``/``rope_scaling`` were moved there by v5 itself.

        Args:
            config: Config of a decoder (for a multimodal model, of its text part).

        Raises:
            UserError: No rotary positions, one rope for each layer type, a rope type without a formula, or a
                config without a length or a base.
        """
        model_type = str(getattr(config, "model_type", type(config).__name__))
        parameters = getattr(config, "rope_parameters", None)
        if not parameters or getattr(config, "alibi", False):
            raise UserError(_no_rotary(config, model_type))
        if any(isinstance(value, Mapping) for value in parameters.values()):
            raise UserError(
                f"model type {model_type!r} has one rope for each layer type ({', '.join(parameters)}), which lit-long "
                "cannot scale: use a model with one rope for all layers (Llama, Qwen3, Mistral, SmolLM)."
            )
        rope_type = str(parameters.get("rope_type") or parameters.get("type") or "default")
        require_known_type(rope_type, model_type)
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        native_length = getattr(config, "max_position_embeddings", None)
        base = parameters.get("rope_theta")
        if not base or not native_length:
            missing = "max_position_embeddings" if base else "rope_theta"
            raise UserError(f"config of model type {model_type!r} has no {missing}: add it to config.json.")
        return cls(
            dim=int(head_dim * (parameters.get("partial_rotary_factor") or 1.0)),
            base=float(base),
            native_length=int(native_length),
            rope_type=rope_type,
            parameters=dict(parameters),
        )

    def architecture_parameters(self) -> dict[str, Any]:
        """The ``rope_parameters`` that every scaling must keep, such as ``partial_rotary_factor``."""
        return {key: value for key, value in self.parameters.items() if key not in SCALING_KEYS}

    def rope_parameters(self) -> dict[str, Any]:
        """The model's own ``rope_parameters`` with type and base spelt out and the legacy key ``type`` dropped."""
        kept = {key: value for key, value in self.parameters.items() if key != "type"}
        return kept | {"rope_type": self.rope_type, "rope_theta": self.base}

    def inv_freq(self) -> Tensor:
        """Frequencies of the untouched model in radians a token, float64, shape [dim/2]."""
        return inv_freq_of(self.rope_parameters(), self.dim)

    def attention_factor(self) -> float:
        """Scale of cos and sin in the untouched model."""
        return attention_factor_of(self.rope_parameters())

    def decay(self) -> Tensor:
        """Factor of the untouched model on each frequency's part of a score for each token of distance; [dim/2]."""
        if self.rope_type == "xpos":
            return xpos_decay(self.dim, float(self.parameters["xpos_scale_base"]))
        return torch.ones_like(self.inv_freq())


def expected_inv_freq(config: "PreTrainedConfig") -> Tensor:
    """Frequencies that a model built from ``config`` must have, scaled or not, by our own formula.

    Args:
        config: Config of a decoder whose rope type is default, linear, yarn or llama3.

    Returns:
        Frequencies in radians a token, float64, shape [dim/2].

    Raises:
        UserError: As :meth:`RopeGeometry.from_config`.
    """
    return RopeGeometry.from_config(config).inv_freq()


def _no_rotary(config: "PreTrainedConfig", model_type: str) -> str:
    if getattr(config, "text_config", None) is not None:
        return f"model type {model_type!r} keeps its decoder's config apart: pass config.get_text_config() instead."
    return (
        f"model type {model_type!r} has no rotary positions that its config controls (learned positions, ALiBi or a "
        "fixed table), so there is nothing to scale: use a model whose config has rope_parameters, such as Llama, "
        "Qwen3, Mistral or SmolLM."
    )
