"""``yarn``: interpolate slow frequencies, keep fast ones, and sharpen attention."""

from typing import Any

from torch import Tensor

from lit_long.rope.base import FactorScaling
from lit_long.rope.formulas import yarn_attention_factor, yarn_inv_freq
from lit_long.rope.geometry import RopeGeometry


class YaRN(FactorScaling):
    """YaRN (Peng et al. 2023): interpolation by parts plus a scale of cos and sin.

    Args:
        factor: How many times longer the context becomes, at least 1. Default: context length over native length.
        beta_fast: Frequencies that turn more often than this within the native length stay as they are.
        beta_slow: Frequencies that turn less often than this are divided by the factor. Below ``beta_fast``.
        attention_factor: Scale of cos and sin, above 0. Default: ``0.1 ln(factor) + 1``. Leave it out if the model is
            to be served by vLLM, which ignores an explicit value (vllm-project/vllm#46280).
    """

    name = "yarn"

    def __init__(
        self,
        *,
        factor: float | None = None,
        beta_fast: float = 32.0,
        beta_slow: float = 1.0,
        attention_factor: float | None = None,
    ) -> None:
        super().__init__(factor=factor)
        self.beta_slow = self._number("beta_slow", beta_slow, above=0)
        self.beta_fast = self._number("beta_fast", beta_fast, above=self.beta_slow)
        self._attention_factor = (
            None if attention_factor is None else self._number("attention_factor", attention_factor, above=0)
        )

    def options(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values."""
        return {
            "factor": self.factor,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "attention_factor": self._attention_factor,
        }

    def inv_freq(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """Frequencies interpolated by parts, float64, shape [dim/2]."""
        return yarn_inv_freq(
            geometry.dim,
            geometry.base,
            factor=self.resolved_factor(geometry, context_length),
            original_length=geometry.native_length,
            beta_fast=self.beta_fast,
            beta_slow=self.beta_slow,
        )

    def attention_factor(self, geometry: RopeGeometry, context_length: int) -> float:
        """Scale of cos and sin: the option, or ``0.1 ln(factor) + 1``."""
        factor = self.resolved_factor(geometry, context_length)
        return self._attention_factor if self._attention_factor is not None else yarn_attention_factor(factor)

    def rope_parameters(self, geometry: RopeGeometry, context_length: int) -> dict[str, Any]:
        """``rope_type: yarn`` with the native length spelt out; transformers would take the raised one instead."""
        parameters: dict[str, Any] = {
            "rope_type": "yarn",
            "rope_theta": geometry.base,
            "factor": self.resolved_factor(geometry, context_length),
            "original_max_position_embeddings": geometry.native_length,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
        }
        if self._attention_factor is not None:
            parameters["attention_factor"] = self._attention_factor
        return geometry.architecture_parameters() | parameters
