"""What is asked of a document: a pure function of the seed and the document's id, so that no process need know another.

Python's ``random.Random(int).random()`` is the same on every version and machine, and does not depend on
PYTHONHASHSEED.
"""

import hashlib
import random
from collections.abc import Mapping
from dataclasses import dataclass

from lit_long.synthesis.config import Kind, Shard


@dataclass(frozen=True)
class Draw:
    """The chances of one question: ``place`` of the kept part and ``chunks`` of the chunks in 0..1, a sampling seed."""

    kind: Kind
    place: float
    chunks: tuple[float, ...]
    seed: int


def draw(seed: int, document: str, index: int, weights: Mapping[Kind, float], pieces: int) -> Draw:
    """The draw of the ``index``-th question of a document.

    Args:
        seed: of the run.
        document: its id.
        index: 0, 1, ...
        weights: of the kinds.
        pieces: chunks of a multi_chunk question.
    """
    chance = random.Random(_number("draw", seed, document, index))
    kinds = list(weights)
    at, total = chance.random() * sum(weights.values()), 0.0
    kind = next(kind for kind in reversed(kinds) if weights[kind])  # should rounding carry past the last
    for name in kinds:
        total += weights[name]
        if at < total:
            kind = name
            break
    place = chance.random()
    chunks = tuple(chance.random() for _ in range(pieces if kind == "multi_chunk" else 1))
    return Draw(kind, place, chunks, _number("sample", seed, document, index) % (1 << 31))


def chosen(seed: int, document: str, share: float) -> bool:
    """Whether a document is among the ``share`` that is used."""
    return _number("share", seed, document) < share * (1 << 64)


def owns(shard: Shard, document: str) -> bool:
    """Whether a document falls to this shard."""
    return _number("shard", document) % shard.count == shard.index


def _number(*parts: object) -> int:
    """64 bits from the parts."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big")
