"""The ``lit-long`` command: one small file per subcommand; nobody imports this package but the entry point."""
