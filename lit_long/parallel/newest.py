"""The newest checkpoint that is complete: what ``--ckpt_path last`` goes on from."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lit_long.model.sharded_checkpoint import is_sharded_checkpoint, read_metadata


def newest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the latest optimizer step in a folder, sharded or a single file; None if there is none.

    A run that was killed in the middle of a save may have left something half-written under any name: each candidate
    is opened, and one that cannot be read is passed over with a warning.
    """
    found = [(step, path.stat().st_mtime, path) for path, step in _complete(folder)]
    return max(found)[2] if found else None


def _complete(folder: Path) -> Iterator[tuple[Path, int]]:
    if not folder.is_dir():
        return
    for path in sorted(folder.glob("*.ckpt")):
        if not path.exists():  # a link whose checkpoint is gone
            continue
        try:
            yield path, int(_plain_part(path)["global_step"])
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            warnings.warn(f"{path} is passed over, it cannot be read: {reason[:200]}", stacklevel=3)


def _plain_part(path: Path) -> dict[str, Any]:
    if path.is_dir():
        if not is_sharded_checkpoint(path):
            raise FileNotFoundError("its save was not finished")
        return read_metadata(path)
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state
