"""FSDP2 and context parallelism: device mesh, strategy, splitting of sequences, sharded loading and checkpoints."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ContextParallelStrategy": "lit_long.parallel.strategy",
    "check_parity": "lit_long.parallel.parity",
    "load_shards": "lit_long.parallel.load",
    "newest_checkpoint": "lit_long.parallel.newest",
}
__all__ = ["ContextParallelStrategy", "check_parity", "load_shards", "newest_checkpoint"]

if TYPE_CHECKING:
    from lit_long.parallel.load import load_shards
    from lit_long.parallel.newest import newest_checkpoint
    from lit_long.parallel.parity import check_parity
    from lit_long.parallel.strategy import ContextParallelStrategy


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_long.parallel' has no attribute {name!r}")
