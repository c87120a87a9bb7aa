"""Read a sharded checkpoint in one process, without the processes that wrote it."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

META = "meta.pt"  # as Lightning names it: everything that is no shard; the last file of a save
_WEIGHTS = "state_dict."


def is_sharded_checkpoint(path: Path) -> bool:
    """Whether a folder is a complete sharded checkpoint."""
    return path.is_dir() and (path / META).is_file() and (path / ".metadata").is_file()


def read_metadata(path: Path) -> dict[str, Any]:
    """Everything of a sharded checkpoint that is no shard; without running code from it."""
    metadata: dict[str, Any] = torch.load(path / META, map_location="cpu", weights_only=True)
    return metadata


def read_whole(path: Path) -> dict[str, Any]:
    """A sharded checkpoint as a single-file one would be, without optimizer states; whole weights in memory."""
    reader = dcp.FileSystemReader(path)
    found = reader.read_metadata().state_dict_metadata
    weights: dict[str, Any] = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in found.items()
        if name.startswith(_WEIGHTS) and isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(weights, storage_reader=reader, no_dist=True)
    return {**read_metadata(path), "state_dict": {n.removeprefix(_WEIGHTS): t for n, t in weights.items()}}
