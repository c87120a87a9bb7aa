"""``ntk``: static NTK-aware scaling, a base raised by rule."""

from typing import Any

from torch import Tensor

from lit_long.errors import UserError
from lit_long.rope.base import FactorScaling
from lit_long.rope.formulas import ntk_base, plain_inv_freq
from lit_long.rope.geometry import RopeGeometry


class NTK(FactorScaling):
    """Raise the base to ``b * factor^(d/(d-2))``, so that the slowest frequency is that of interpolation.

    The static form, fixed for all lengths; it is plain RoPE with another ``rope_theta``, so every engine loads it.
    (transformers' ``dynamic`` type recomputes the base for each batch and is not this.)

    Args:
        factor: How many times longer the context becomes, at least 1. Default: context length over native length.
    """

    name = "ntk"

    def __init__(self, *, factor: float | None = None) -> None:
        super().__init__(factor=factor)

    def validate(self, geometry: RopeGeometry, context_length: int) -> None:
        """As :meth:`FactorScaling.validate`; also refuses fewer than 3 rotary dimensions.

        Args:
            geometry: The untouched model's geometry.
            context_length: Wanted context in tokens.
        """
        super().validate(geometry, context_length)
        if geometry.dim <= 2:
            raise UserError(
                f"rope method 'ntk' needs more than 2 rotary dimensions, the model has {geometry.dim}: use 'linear'."
            )

    def scaled_base(self, geometry: RopeGeometry, context_length: int) -> float:
        """The raised base."""
        return ntk_base(geometry.dim, geometry.base, self.resolved_factor(geometry, context_length))

    def inv_freq(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """Plain frequencies at the raised base, float64, shape [dim/2]."""
        return plain_inv_freq(geometry.dim, self.scaled_base(geometry, context_length))

    def rope_parameters(self, geometry: RopeGeometry, context_length: int) -> dict[str, Any]:
        """``rope_type: default`` with the raised ``rope_theta``."""
        return geometry.architecture_parameters() | {
            "rope_type": "default",
            "rope_theta": self.scaled_base(geometry, context_length),
        }
