"""Sharded checkpoints: every rank writes its shards (torch.distributed.checkpoint); complete, or not there.

A save goes to a hidden folder beside its place and is renamed when all of it is on disk: a run that is killed while it
saves leaves the last checkpoint as it was. Shards are read by what a rank needs, so the number of ranks and how they
are divided may change.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from lit_long.errors import UserError
from lit_long.model.sharded_checkpoint import META, is_sharded_checkpoint


def save_sharded(path: Path, state: dict[str, Any], metadata: dict[str, Any], barrier: Callable[[], object]) -> None:
    """Write a checkpoint, on all ranks together; an earlier one in its place is there until the new one is complete.

    Args:
        path: folder to be.
        state: sharded tensors and plain ones, nested dicts.
        metadata: everything else, the same on all ranks; rank 0's is written.
        barrier: waits for all ranks.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    unfinished = path.with_name(f".unfinished-{path.name}")
    if first:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    barrier()
    dcp.save(state, checkpoint_id=unfinished)
    if first:
        _write_metadata(unfinished / META, metadata)
        _replace(unfinished, path)
    barrier()


def _write_metadata(place: Path, metadata: dict[str, Any]) -> None:
    with place.open("wb") as file:
        torch.save(metadata, file)
        file.flush()
        os.fsync(file.fileno())


def _replace(new: Path, place: Path) -> None:
    """Rename a folder into a place that may be taken (by a folder, a file or a link)."""
    before = place.with_name(f".replaced-{place.name}")
    if before.is_symlink() or before.is_file():
        before.unlink()
    shutil.rmtree(before, ignore_errors=True)
    if place.is_symlink() or place.exists():
        place.rename(before)
    new.rename(place)
    _sync_folder(place.parent)
    if before.is_symlink() or before.is_file():
        before.unlink()
    else:
        shutil.rmtree(before, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def load_sharded(path: Path, state: dict[str, Any]) -> None:
    """Fill the tensors of ``state`` in place from a checkpoint, each rank its own shards.

    Raises:
        UserError: no complete checkpoint there, or one of another model.
    """
    if not is_sharded_checkpoint(path):
        raise UserError(f"{path}: not a complete sharded checkpoint (it needs .metadata and {META})")
    try:
        dcp.load(state, checkpoint_id=path)
    except Exception as error:  # DCP wraps each rank's error in its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"{path}: does not fit this run: {' '.join(lines[-2:])[:300]}") from error
