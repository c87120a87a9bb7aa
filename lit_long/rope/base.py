"""What every RoPE scaling method is: a formula, its form in a transformers config, and its limits.

Plain classes on an abstract base, not dataclasses: LightningCLI then takes ``class_path``/``init_args`` for them and
checks every option (a union of dataclasses is silently resolved to the wrong class).
"""

import inspect
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from lit_long.errors import UserError
from lit_long.rope.geometry import RopeGeometry


class RopeScaling(ABC):
    """How a model's rotary positions are changed for a longer context.

    A method holds only its options; the model's geometry and the wanted length are arguments, so one instance serves
    any model. Subclass it, give it a ``name``, and write the three abstract members; ``docs/rope.md`` shows how.
    """

    name: ClassVar[str]
    """Name in the registry, on the command line and in model cards."""

    def validate(self, geometry: RopeGeometry, context_length: int) -> None:
        """Raise :class:`~lit_long.errors.UserError` if this method cannot take the model to ``context_length``.

        Args:
            geometry: The untouched model's geometry.
            context_length: Wanted context in tokens.
        """
        if isinstance(context_length, bool) or not isinstance(context_length, int):
            raise UserError(f"context_length must be a whole number of tokens, got {context_length!r}.")
        if context_length < geometry.native_length:
            raise UserError(
                f"context_length {context_length} is shorter than the model's native {geometry.native_length}: "
                "lit-long extends contexts. Ask for at least the native length; to train on shorter sequences, set "
                "the data's sequence_length alone."
            )

    @abstractmethod
    def inv_freq(self, geometry: RopeGeometry, context_length: int) -> Tensor:
        """Frequencies in radians a token by the paper's formula, float64, shape [dim/2].

        Raises:
            UserError: As :meth:`validate`.
        """

    def attention_factor(self, geometry: RopeGeometry, context_length: int) -> float:
        """Scale of cos and sin, 1 unless the method changes it.

        Raises:
            UserError: As :meth:`validate`.
        """
        self.validate(geometry, context_length)
        return 1.0

    @abstractmethod
    def rope_parameters(self, geometry: RopeGeometry, context_length: int) -> dict[str, Any]:
        """The ``rope_parameters`` that make transformers 5 compute :meth:`inv_freq`, always explicit in type and base.

        Raises:
            UserError: As :meth:`validate`.
        """

    def config_extras(self) -> dict[str, Any]:
        """Attributes of the config beyond ``rope_parameters`` that other parts of lit-long read; none by default."""
        return {}

    def options(self) -> dict[str, Any]:
        """The constructor's arguments as plain JSON values: ``rope_method(s.name, **s.options())`` rebuilds it."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={value!r}' for key, value in self.options().items())})"

    def _number(self, option: str, value: Any, *, above: float = -math.inf, at_least: float = -math.inf) -> float:
        """Check one numeric option and return it as a float."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if is_number and value > above and value >= at_least:
            return float(value)
        limit = f"above {above:g}" if above > -math.inf else f"of at least {at_least:g}"
        raise UserError(f"rope method {self.name!r}: {option} must be a number {limit}, got {value!r}.")


class FactorScaling(RopeScaling):
    """A method that stretches the native length by a factor, and therefore needs a model that is not scaled yet."""

    def __init__(self, *, factor: float | None = None) -> None:
        self.factor = None if factor is None else self._number("factor", factor, at_least=1)

    def validate(self, geometry: RopeGeometry, context_length: int) -> None:
        """As :meth:`RopeScaling.validate`; also refuses a model that is already scaled and a factor that is too small.

        Args:
            geometry: The untouched model's geometry.
            context_length: Wanted context in tokens.
        """
        super().validate(geometry, context_length)
        if geometry.rope_type != "default":
            raise UserError(
                f"rope method {self.name!r} is not defined on a model that is already scaled "
                f"(rope_type {geometry.rope_type!r}): use 'abf', which only raises the base, or an unscaled base model."
            )
        # 1e-9: a factor that a user computed as a quotient may fall one rounding short
        if self.factor is not None and self.factor * geometry.native_length < context_length * (1 - 1e-9):
            raise UserError(
                f"rope method {self.name!r}: factor {self.factor:g} x native length {geometry.native_length} = "
                f"{self.factor * geometry.native_length:.0f} does not reach context_length {context_length}. Use a "
                f"factor of at least {context_length / geometry.native_length}, or leave it out."
            )

    def resolved_factor(self, geometry: RopeGeometry, context_length: int) -> float:
        """The factor in use: the option, or ``context_length / native_length`` where it is None.

        Raises:
            UserError: As :meth:`validate`.
        """
        self.validate(geometry, context_length)
        return self.factor if self.factor is not None else context_length / geometry.native_length
