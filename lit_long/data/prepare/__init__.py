"""``prepare``: raw documents to a token corpus (see :mod:`lit_long.data.corpus` for what it writes).

Nothing is lost or cut: each document becomes one row with all its tokens and a final EOS, and the counts are reported.

The sources are cut into items of work (:mod:`lit_long.data.sources`) whose boundaries depend on the inputs alone. Each
item becomes a file of its own in ``OUTPUT.unfinished``, so a run that was killed goes on where it stopped, any number
of processes or machines may share the work, and the corpus is the same whoever did it.
"""

from lit_long.data.prepare.config import PrepareConfig, PrepareResult, Progress, SplitCount
from lit_long.data.prepare.run import finish, prepare, tokenize_items
from lit_long.data.sources import Source

__all__ = [
    "PrepareConfig",
    "PrepareResult",
    "Progress",
    "Source",
    "SplitCount",
    "finish",
    "prepare",
    "tokenize_items",
]
