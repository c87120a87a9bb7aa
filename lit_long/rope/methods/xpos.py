"""``xpos_abf``: xPos with an adjusted base frequency, the fourth arm of Llama 2 Long's position ablation."""

import math
from typing import Any

from torch import Tensor

from lit_long.errors import UserError
from lit_long.rope.base import RopeScaling
from lit_long.rope.formulas import plain_inv_freq, xpos_decay
from lit_long.rope.geometry import RopeGeometry
from lit_long.rope.xpos import SCALE_BASE_KEY, XPOS

_FASTEST = math.log2(1.4 / 0.4)  # bits by which the fastest frequency decays over one scale base
# bits that the scaling of a query or key may reach: float32 and bfloat16 have 127 each way, and the rest is for the
# values themselves and for their gradients, which are scaled, too
_MOST = 64


class XPosABF(RopeScaling):
    """Raise the RoPE base as ``abf`` does, and let scores decay smoothly with distance (xPos, Sun et al. 2022).

    The part of frequency j in a score is multiplied by ``zeta_j^(distance / scale_base)``, which damps the oscillation
    of the fast frequencies (Llama 2 Long, section 4.1, table 5, where it brings nothing over ABF). Queries and keys are
    scaled inside lit-long's packed attention: no serving engine knows it, and a release holds code of its own.

    Args:
        base: New RoPE base, above 1 and not below the model's own.
        scale_base: Tokens over which frequency j decays by ``zeta_j``. The paper does not give its constant; the public
            xPos has 512, with which next to nothing is left at 30,000 tokens. 25,600 is 512 times the 50 of the base,
            and has what the paper says of its curve: close to ABF's, but smoother.
    """

    name = "xpos_abf"

    def __init__(self, *, base: float = 500_000.0, scale_base: float = 25_600.0) -> None:
        self.base = self._number("base", base, above=1)
        self.scale_base = self._number("scale_base", scale_base, above=0)

    def validate(self, geometry: RopeGeometry, context_length: int) -> None:
        """As :meth:`RopeScaling.validate`; also refuses to lower the base, a scaled model, and numbers that overflow.

        Args:
            geometry: The untouched model's geometry.
            context_length: Wanted context in tokens.
        """
        super().validate(geometry, context_length)
        if geometry.rope_type != "default":
            raise UserError(
                f"rope method {self.name!r} is not defined on a model that is already scaled (rope_type "
                f"{geometry.rope_type!r}): use 'abf', which only raises the base, or an unscaled base model."
            )
        if self.base < geometry.base:
            raise UserError(
                f"rope method {self.name!r}: base {self.base:g} is below the model's own {geometry.base:g}. Use a "
                f"larger one (the paper's step is 50 times: {50 * geometry.base:g})."
            )
        # positions are centred in a document, so the farthest are half a context away
        least = context_length / 2 * _FASTEST / _MOST
        if self.scale_base < least:
            raise UserError(
                f"rope method {self.name!r}: with scale_base {self.scale_base:g}, queries and keys at the ends of "
                f"{context_length} tokens are scaled by up to 2^{context_length / 2 * _FASTEST / self.scale_base:.0f}, "
                f"which overflows. Use a scale_base of at least {math.ceil(least)}, or a shorter context_length."
            )

    def inv_freq(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """Plain frequencies at the new base, float64, shape [dim/2]."""
        self.validate(geometry, context_length)
        return plain_inv_freq(geometry.dim, self.base)

    def decay(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """``zeta_j^(1/scale_base)``, float64, shape [dim/2]."""
        self.validate(geometry, context_length)
        return xpos_decay(geometry.dim, self.scale_base)

    def rope_parameters(self, geometry: RopeGeometry, context_length: int) -> dict[str, Any]:
        """``rope_type: xpos`` with base and scale base."""
        self.validate(geometry, context_length)
        return geometry.architecture_parameters() | {
            "rope_type": XPOS,
            "rope_theta": self.base,
            SCALE_BASE_KEY: self.scale_base,
        }
