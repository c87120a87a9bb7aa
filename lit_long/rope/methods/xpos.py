"""``xpos_abf``: ABF with xPos' decay of attention over distance, the fourth arm of Llama 2 Long's table 5."""

import math
from typing import Any

import torch
from torch import Tensor

from lit_long.errors import UserError
from lit_long.rope.geometry import RopeGeometry
from lit_long.rope.methods.abf import ABF

GAMMA = 0.4
_LARGEST_EXPONENT = 80.0  # e^80 is 5e34; float32 and bfloat16 end at 3e38


def xpos_log_zeta(dim: int) -> Tensor:
    """``ln zeta_j``, ``zeta_j = (2j + 0.4 d) / (1.4 d)``, float64 [dim/2] (Sun et al. 2022; torchscale)."""
    return torch.log((torch.arange(0, dim, 2, dtype=torch.float64) + GAMMA * dim) / ((1 + GAMMA) * dim))


class XPosABF(ABF):
    """ABF, and scores between a query at m and a key at n times ``zeta_j^((m - n) / scale_base)`` for each pair j.

    The decay smooths the oscillation of far scores (xPos, Sun et al. 2022). It is no part of a transformers config: the
    attention function does it (:mod:`lit_long.attention.xpos`), so ``model.attention: packed`` is needed, and no
    inference engine can load such a model; it cannot be exported.

    Args:
        base: New RoPE base, as for :class:`ABF`.
        scale_base: Tokens over which the decay acts. 512 is xPos' own; Llama 2 Long does not state its value, and the
            curve in its figure 4 asks for about 10 to 50 times that.
    """

    name = "xpos_abf"

    def __init__(self, *, base: float = 500_000.0, scale_base: float = 512.0) -> None:
        super().__init__(base=base)
        self.scale_base = self._number("scale_base", scale_base, above=0)

    def validate(self, geometry: RopeGeometry, context_length: int) -> None:
        """As :meth:`ABF.validate`; also refuses a scale base at which the length overflows float32.

        Args:
            geometry: The untouched model's geometry.
            context_length: Wanted context in tokens.
        """
        super().validate(geometry, context_length)
        # positions are centred in a document, so the greatest exponent is that of half the length
        least = float(-xpos_log_zeta(geometry.dim)[0]) * (context_length / 2) / _LARGEST_EXPONENT
        if self.scale_base < least:
            raise UserError(
                f"rope method 'xpos_abf': with scale_base {self.scale_base:g} queries and keys overflow at "
                f"context_length {context_length}; give at least {math.ceil(least)}."
            )

    def config_extras(self) -> dict[str, Any]:
        """What the attention function reads."""
        return {"lit_long_xpos": {"scale_base": self.scale_base}}
