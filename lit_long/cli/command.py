"""What a subcommand of ``lit-long`` is; also the door for commands of other packages.

A package adds a command through the entry-point group ``lit_long.commands``, naming a :class:`Command`. Its module must
import nothing but the standard library at the top, so that ``--help`` answers at once.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
        name: the word after ``lit-long``.
        summary: one line for ``lit-long --help``.
        add_arguments: adds its options to an argparse parser.
        run: does the work and returns the exit code; a :class:`lit_long.errors.UserError` becomes exit code 2.
    """

    name: str
    summary: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
