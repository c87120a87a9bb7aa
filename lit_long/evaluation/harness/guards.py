"""What surrounds a call of the harness, which seeds generators, cuts prompts with a mere warning, and runs code."""

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The harness seeds every generator; whoever called us goes on with the numbers they would have drawn."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def cut_prompts() -> Iterator[list[str]]:
    """Collects the harness's warnings that a prompt was cut; it counts them nowhere."""
    found: list[str] = []

    class Cut(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            if "exceeds model's maximum length" in message or "Left truncation applied" in message:
                found.append(message)

    handler, logger = Cut(level=logging.WARNING), logging.getLogger("lm_eval")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


@contextmanager
def code_allowed(allowed: bool) -> Iterator[None]:
    """The variable that Hugging Face's code_eval wants to see, for this call only."""
    name = "HF_ALLOW_CODE_EVAL"
    before = os.environ.get(name)
    if allowed:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
