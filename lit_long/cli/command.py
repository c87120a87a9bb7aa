"""What a ``lit-long`` command is: a name, one line of help, its arguments and a function.

A command module builds one ``COMMAND`` at import time from the standard library alone, so that the entry can list every
command and print its ``--help`` without paying for torch; the function imports what it needs when it is called.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """One subcommand of ``lit-long``."""

    name: str
    """The word typed after ``lit-long``."""
    summary: str
    """One line for ``lit-long --help``."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    """Declares the command's arguments on an empty parser."""
    run: Callable[[argparse.Namespace], int]
    """Does the work and returns the exit code; raises :class:`lit_long.errors.UserError` on a user's mistake."""
