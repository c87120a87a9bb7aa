"""The end of a run is always in ``last.ckpt``.

ModelCheckpoint with ``every_n_train_steps`` saves at multiples of that number only: a run of 110 steps with 25 would
end with the weights of step 100, and a run of 3 steps with none.
"""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class FinalCheckpoint(Callback):
    """Saves ``last.ckpt`` at the end of training wherever a ModelCheckpoint with ``save_last`` has not just done so."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, on all ranks together."""
        for saver in trainer.checkpoint_callbacks:
            if not isinstance(saver, ModelCheckpoint) or not saver.save_last or saver.dirpath is None:
                continue
            if trainer.global_step == 0 or saver._last_global_step_saved == trainer.global_step:
                continue
            path = Path(saver.dirpath) / f"{saver.CHECKPOINT_NAME_LAST}{saver.FILE_EXTENSION}"
            if trainer.is_global_zero and path.is_symlink():
                path.unlink()
            trainer.strategy.barrier()
            trainer.save_checkpoint(path)
