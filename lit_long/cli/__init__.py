"""The ``lit-long`` commands, one module each."""
