"""``none``: the positions stay as they are; only the claimed length grows. The paper's "RoPE" arm."""

from typing import Any

from torch import Tensor

from lit_long.rope.base import RopeScaling
from lit_long.rope.geometry import RopeGeometry


class NoScaling(RopeScaling):
    """Leave the frequencies alone, also those of an already scaled model, and only raise the context length.

    The control arm: with base 10,000 it does not reach beyond 4,000 to 6,000 tokens even after long training
    (Llama 2 Long, section 4.1).
    """

    name = "none"

    def inv_freq(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """The untouched model's frequencies, float64, shape [dim/2]."""
        self.validate(geometry, context_length)
        return geometry.inv_freq()

    def attention_factor(self, geometry: RopeGeometry, context_length: int) -> float:
        """The untouched model's scale of cos and sin."""
        self.validate(geometry, context_length)
        return geometry.attention_factor()

    def rope_parameters(self, geometry: RopeGeometry, context_length: int) -> dict[str, Any]:
        """The untouched model's ``rope_parameters``, spelt out."""
        self.validate(geometry, context_length)
        return geometry.rope_parameters()
