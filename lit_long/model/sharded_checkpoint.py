"""Read a sharded checkpoint in one process, without the processes that wrote it."""

from pathlib import Path
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long.model.shard_reader import ShardReader

META = "meta.pt"  # as Lightning names it: everything that is no shard; the last file of a save
_WEIGHTS = ("state_dict.", "model.")
"""Before the names of weights: as ModelParallelStrategy writes them, and as FSDPStrategy does (where it is the first
that is missing, since module names begin with ``model.`` too)."""


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether a folder is a complete sharded checkpoint."""
    return path.is_dir() and (path / META).is_file() and (path / ".metadata").is_file()


def read_metadata(path: Path) -> dict[str, Any]:
    """Everything of a sharded checkpoint that is no shard; without running code from it."""
    metadata: dict[str, Any] = torch.load(path / META, map_location="cpu", weights_only=True)
    return metadata


def read_whole(path: Path) -> dict[str, Any]:
    """A sharded checkpoint as a single-file one would be, without optimizer states; whole weights in memory."""
    reader = ShardReader(path)
    names = weight_names(path, reader)
    return {**read_metadata(path), "state_dict": {name: reader.read(stored) for name, stored in names.items()}}


def weight_names(path: Path, reader: ShardReader) -> dict[str, str]:
    """Name of each weight in the Lightning module to its name in a sharded checkpoint.

    Args:
        path: The folder, for the error.
        reader: Its reader.

    Raises:
        UserError: No weights there under any of the names that Lightning gives them, or not all of their pieces.
    """
    for prefix in _WEIGHTS:
        found = {name.removeprefix(prefix): name for name in reader.tensors if name.startswith(prefix)}
        if found:
            reader.check(found.values())
            return found
    some = ", ".join(sorted(reader.tensors)[:3]) or "nothing"
    raise UserError(f"{path} holds no weights of a Lightning module (it holds {some}).")
