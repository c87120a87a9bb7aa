"""The ``lit-long`` command line."""
