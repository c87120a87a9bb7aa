"""What a run that was cut off goes on from."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_warn

from lit_long.parallel.newest import newest_checkpoint


def newest_of(trainer: Trainer) -> str | None:
    """The newest complete checkpoint in the folders of a trainer's ModelCheckpoints; None, with a warning, without one.

    Every process must see the same folders (one file system).
    """
    found: list[Path] = []
    for saver in trainer.checkpoint_callbacks:
        if isinstance(saver, ModelCheckpoint):
            any_saver: Any = saver  # Lightning's own way to its default folder has no public name
            newest = newest_checkpoint(Path(any_saver._ModelCheckpoint__resolve_ckpt_dir(trainer)))
            found += [newest] if newest is not None else []
    if not found:
        rank_zero_warn("ckpt_path: last, and there is no complete checkpoint yet: the run starts at its beginning")
        return None
    return str(max(found, key=lambda path: path.stat().st_mtime))
