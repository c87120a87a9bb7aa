"""The one error type for mistakes of a user's making; the command line turns it into one message and exit code 2."""


class UserError(ValueError):
    """Input that a user can correct: the message names what was found, what is allowed and what to do.

    A ``ValueError``, so that LightningCLI and plain Python callers report it as one, too.
    """
