"""Self-instruct: questions and answers about long documents, made and checked by a chat model (docs/synthesis.md)."""

from lit_long.synthesis.config import (
    Checks,
    Generator,
    Local,
    Questions,
    Sampling,
    Server,
    Shard,
    SynthesizeConfig,
)
from lit_long.synthesis.run import synthesize

__all__ = [
    "Checks",
    "Generator",
    "Local",
    "Questions",
    "Sampling",
    "Server",
    "Shard",
    "SynthesizeConfig",
    "synthesize",
]
