"""Which RoPE scaling methods there are, by name. A new method is a file in ``methods/`` and a line here."""

import difflib
import inspect
from typing import Any

from lit_long.errors import UserError
from lit_long.rope.base import RopeScaling
from lit_long.rope.methods.abf import ABF
from lit_long.rope.methods.linear import Linear
from lit_long.rope.methods.llama3 import Llama3
from lit_long.rope.methods.no_scaling import NoScaling
from lit_long.rope.methods.ntk import NTK
from lit_long.rope.methods.xpos import XPosABF
from lit_long.rope.methods.yarn import YaRN

_METHODS: tuple[type[RopeScaling], ...] = (NoScaling, ABF, XPosABF, Linear, NTK, YaRN, Llama3)


def rope_methods() -> dict[str, type[RopeScaling]]:
    """Every method by name, in the order in which they are shown to users."""
    return {method.name: method for method in _METHODS}


def rope_method(name: str, **options: Any) -> RopeScaling:
    """Build a method by name.

    Args:
        name: A key of :func:`rope_methods`, such as ``"abf"``.
        **options: The method's constructor arguments, such as ``base=5e6``.

    Raises:
        UserError: Unknown name or option (the message lists what exists), or a value out of range.
    """
    methods = rope_methods()
    if name not in methods:
        raise UserError(f"unknown rope method {name!r}{_suggestion(name, methods)} There are: {', '.join(methods)}.")
    allowed = inspect.signature(methods[name]).parameters
    for option in options:
        if option not in allowed:
            exist = f"It takes: {', '.join(allowed)}." if allowed else "It takes no options."
            raise UserError(f"rope method {name!r} has no option {option!r}{_suggestion(option, allowed)} {exist}")
    return methods[name](**options)


def parse_options(text: str) -> dict[str, float]:
    """Options of a method as they are written on the command line, ``KEY=NUMBER,...``.

    Raises:
        UserError: a part that is not KEY=NUMBER.
    """
    options: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        try:
            options[key] = float(value)
        except ValueError as error:
            raise UserError(f"{part!r} is not KEY=NUMBER, e.g. base=500000") from error
    return options


def _suggestion(word: str, known: Any) -> str:
    close = difflib.get_close_matches(str(word).lower(), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
