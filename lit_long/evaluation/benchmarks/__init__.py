"""Benchmarks of text on one or several models: what a user names (`plan`), the run (`run`), the report (`report`)."""
