"""What tests of commands share."""

import logging
import sys

import pytest


@pytest.fixture(autouse=True)
def lightning_logs_here():
    """Lightning binds its log handler to the stderr of its import, which pytest has closed by the next test."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.stream = sys.stderr  # setStream would flush the closed one
