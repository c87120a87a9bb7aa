"""What a subcommand of ``lit-long`` is: a name, one line of help, its arguments and a function.

Standard library only, so that ``lit-long --help`` costs no heavy import.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One subcommand; other packages register theirs through the entry-point group ``lit_long.commands``."""

    name: str
    """The word after ``lit-long``."""

    summary: str
    """One line for ``lit-long --help``."""

    add_arguments: Callable[[ArgumentParser], None]
    """Declares the arguments; imports nothing heavy."""

    run: Callable[[Namespace], int]
    """Does the work and returns the exit code."""
