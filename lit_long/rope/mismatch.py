"""The error of every proof of positions."""

from lit_long.errors import UserError


class RopeMismatchError(UserError):
    """A live model does not compute the positions that it was asked for."""
