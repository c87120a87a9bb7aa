"""``abf``: adjusted base frequency, the method of Llama 2 Long and lit-long's default."""

from typing import Any

from torch import Tensor

from lit_long.errors import UserError
from lit_long.rope.base import RopeScaling
from lit_long.rope.geometry import RopeGeometry
from lit_long.rope.parameters import attention_factor_of, inv_freq_of


class ABF(RopeScaling):
    """Raise the RoPE base and change nothing else: ``w_j = base^(-2j/d)`` (Llama 2 Long, appendix B).

    Slower rotation keeps distant tokens in sight, and neighbouring positions stay apart: their distance falls only
    with the logarithm of the base. On a model that is already scaled (Llama 3.1) the scaling is kept and its base
    replaced.

    Args:
        base: New RoPE base, above 1 and not below the model's own. The paper went from 10,000 to 500,000 for an 8
            times longer context; for a model with another base, 50 times its own is the same step.
    """

    name = "abf"

    def __init__(self, *, base: float = 500_000.0) -> None:
        self.base = self._number("base", base, above=1)

    def validate(self, geometry: RopeGeometry, context_length: int) -> None:
        """As :meth:`RopeScaling.validate`; also refuses to lower the model's base.

        Args:
            geometry: The untouched model's geometry.
            context_length: Wanted context in tokens.
        """
        super().validate(geometry, context_length)
        if self.base < geometry.base:
            raise UserError(
                f"rope method 'abf': base {self.base:g} is below the model's own {geometry.base:g}, which would "
                f"shorten its reach and is almost surely a mistake. Use a larger base (the paper's step is 50 times: "
                f"{50 * geometry.base:g}), or 'none' to keep the model's."
            )

    def inv_freq(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """Frequencies at the new base, float64, shape [dim/2]."""
        return inv_freq_of(self.rope_parameters(geometry, context_length), geometry.dim)

    def attention_factor(self, geometry: RopeGeometry, context_length: int) -> float:
        """The untouched model's scale of cos and sin: it does not depend on the base."""
        return attention_factor_of(self.rope_parameters(geometry, context_length))

    def rope_parameters(self, geometry: RopeGeometry, context_length: int) -> dict[str, Any]:
        """The model's own ``rope_parameters`` with the new ``rope_theta``."""
        self.validate(geometry, context_length)
        return geometry.rope_parameters() | {"rope_theta": self.base}
