"""``linear``: position interpolation (PI)."""

from typing import Any

from torch import Tensor

from lit_long.rope.base import FactorScaling
from lit_long.rope.formulas import linear_inv_freq
from lit_long.rope.geometry import RopeGeometry


class Linear(FactorScaling):
    """Squeeze all positions into the native range: ``w_j = b^(-2j/d) / factor`` (Chen et al. 2023).

    Needs little training to hold, but neighbouring positions move together by the whole factor, which costs short-range
    sharpness (Llama 2 Long, table 5 and appendix B).

    Args:
        factor: How many times longer the context becomes (the paper's 1/alpha), at least 1. Default: context length
            over native length.
    """

    name = "linear"

    def __init__(self, *, factor: float | None = None) -> None:
        super().__init__(factor=factor)

    def inv_freq(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """Plain frequencies over the factor, float64, shape [dim/2]."""
        return linear_inv_freq(geometry.dim, geometry.base, self.resolved_factor(geometry, context_length))

    def rope_parameters(self, geometry: RopeGeometry, context_length: int) -> dict[str, Any]:
        """``rope_type: linear`` with base and factor."""
        factor = self.resolved_factor(geometry, context_length)
        return geometry.architecture_parameters() | {
            "rope_type": "linear",
            "rope_theta": geometry.base,
            "factor": factor,
        }
