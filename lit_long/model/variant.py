"""A model with other positions than its own, without training: ``MODEL#METHOD[:KEY=VALUE,...]``.

What an extension does before any training is the first thing to know about it. ``models/base#abf:base=500000`` is the
model at ``models/base`` with RoPE base 500,000, ``models/base#linear`` with interpolated positions, and
``models/base#none`` the untouched positions on a longer window. The one option that is not the method's is ``length``,
the context length; by default it is the length that is measured.
"""

from dataclasses import dataclass
from pathlib import Path

from lit_long.errors import UserError
from lit_long.rope import RopeScaling, rope_method
from lit_long.rope.registry import parse_options

_MARK = "#"
_LENGTH = "length"


@dataclass(frozen=True)
class Variant:
    """What a user asked for.

    Attributes:
        path: the model: a folder, or a Hub id.
        method: name of a RoPE scaling method; None: the model's own positions.
        options: of the method.
        length: context length in tokens, where given.
    """

    path: str
    method: str | None = None
    options: tuple[tuple[str, float], ...] = ()
    length: int | None = None

    def at(self, length: int) -> str:
        """The same as text, for ``length`` tokens where it names none."""
        if self.method is None:
            return self.path
        options = (*self.options, (_LENGTH, self.length or length))
        return f"{self.path}{_MARK}{self.method}:{','.join(f'{key}={value:.15g}' for key, value in options)}"

    def scaling(self) -> tuple[RopeScaling, int]:
        """The method, and the context length in tokens.

        Raises:
            UserError: no such method or option, or no length.
        """
        assert self.method is not None
        method = rope_method(self.method, **dict(self.options))
        if self.length is None:
            raise UserError(f"{self.path}#{self.method}: for how many tokens? Add length, e.g. :length=32768")
        return method, self.length


def parse_variant(text: str) -> Variant:
    """Read ``MODEL[#METHOD[:KEY=VALUE,...]]``.

    A path that exists as it is written is a path, whatever is in it.

    Raises:
        UserError: no model, no method, an option that is not KEY=NUMBER, or positions for a training checkpoint.
    """
    path, mark, rest = text.rpartition(_MARK)
    if not mark or Path(text).exists():
        return Variant(text)
    method, _, listed = rest.partition(":")
    if not path or not method:
        raise UserError(f"{text!r} is not MODEL#METHOD[:KEY=VALUE,...], e.g. models/base#abf:base=500000")
    if path.endswith(".ckpt"):
        raise UserError(
            f"{text!r}: the positions of a training checkpoint are those that it was trained with; export it, or give "
            "the base model"
        )
    try:
        options = parse_options(listed)
    except UserError as error:
        raise UserError(f"{text!r}: {error}") from error
    length = options.pop(_LENGTH, None)
    if length is not None and (length < 1 or length != int(length)):
        raise UserError(f"{text!r}: length must be a whole number of tokens, got {length:g}")
    return Variant(path, method, tuple(options.items()), None if length is None else int(length))
