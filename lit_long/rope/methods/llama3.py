"""``llama3``: the scaling of Llama 3.1."""

from typing import Any

from torch import Tensor

from lit_long.rope.base import FactorScaling
from lit_long.rope.formulas import llama3_inv_freq
from lit_long.rope.geometry import RopeGeometry


class Llama3(FactorScaling):
    """Interpolate slow frequencies, keep fast ones, mix between: Llama 3.1's scaling. Attention is not scaled.

    Args:
        factor: How many times longer the context becomes, at least 1. Default: context length over native length.
        low_freq_factor: Frequencies that turn less often than this within the native length are divided by the
            factor. Above 0.
        high_freq_factor: Frequencies that turn more often than this stay as they are. Above ``low_freq_factor``.
    """

    name = "llama3"

    def __init__(
        self, *, factor: float | None = None, low_freq_factor: float = 1.0, high_freq_factor: float = 4.0
    ) -> None:
        super().__init__(factor=factor)
        self.low_freq_factor = self._number("low_freq_factor", low_freq_factor, above=0)
        self.high_freq_factor = self._number("high_freq_factor", high_freq_factor, above=self.low_freq_factor)

    def inv_freq(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """Frequencies mixed by their turns within the native length, float64, shape [dim/2]."""
        return llama3_inv_freq(
            geometry.dim,
            geometry.base,
            factor=self.resolved_factor(geometry, context_length),
            low_freq_factor=self.low_freq_factor,
            high_freq_factor=self.high_freq_factor,
            original_length=geometry.native_length,
        )

    def rope_parameters(self, geometry: RopeGeometry, context_length: int) -> dict[str, Any]:
        """``rope_type: llama3`` with the native length spelt out; transformers would take the raised one instead."""
        return geometry.architecture_parameters() | {
            "rope_type": "llama3",
            "rope_theta": geometry.base,
            "factor": self.resolved_factor(geometry, context_length),
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": geometry.native_length,
        }
