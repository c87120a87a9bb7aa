"""A Lightning callback that turns the end of a run into a proved release, and publishes it if asked.

What can fail is asked before the first step: the folder, the repository's name, the token. The export itself runs on
the first process after training was torn down, so no other process waits in a collective for it.
"""

from pathlib import Path
from typing import Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_long.callbacks import FinalCheckpoint
from lit_long.errors import UserError

_OWN = "export.ckpt"


class ExportOnEnd(Callback):
    """Exports the model at the end of ``fit``: ``trainer.callbacks: [{class_path: lit_long_hub.ExportOnEnd, ...}]``.

    Args:
        output: Folder of the release: new, empty or an earlier export.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None keeps the checkpoint's.
        max_shard_size: Largest weight file, such as ``5GB``.
        license: Hub id of the licence; None takes it from the base model's card.
        push_to: Repository ``organisation/name`` to publish to (private); None publishes nothing.
        tag: Tag of the published commit.

    Raises:
        UserError: Before training: a folder or repository that cannot be written to. After it: what
            ``export_checkpoint`` and ``push_release`` raise; the checkpoint is there, and the message says how to
            export it again.
    """

    def __init__(
        self,
        output: str,
        *,
        dtype: Literal["float32", "bfloat16", "float16"] | None = None,
        max_shard_size: str = "5GB",
        license: str | None = None,
        push_to: str | None = None,
        tag: str | None = None,
    ) -> None:
        if tag is not None and push_to is None:
            raise UserError("ExportOnEnd: tag is the tag of a published commit; give push_to too, or leave it out.")
        self.output, self.dtype, self.max_shard_size, self.license = Path(output), dtype, max_shard_size, license
        self.push_to, self.tag = push_to, tag
        self._checkpoint: Path | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what cannot end well, before the first step."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        from lit_long_hub.output_folder import check_folder

        check_folder(self.output)
        if self.push_to is not None:
            from lit_long_hub.push import check_repo_id
            from lit_long_hub.remote.client import hub_client, hub_errors

            check_repo_id(self.push_to)
            with hub_errors(self.push_to, doing="publishing to"):
                hub_client().whoami()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the run's last checkpoint, or save one, on all processes together."""
        if trainer.fast_dev_run or trainer.global_step == 0:  # type: ignore[attr-defined]
            return
        final = any(isinstance(callback, FinalCheckpoint) for callback in _callbacks(trainer))
        for saver in trainer.checkpoint_callbacks:
            if final and isinstance(saver, ModelCheckpoint) and saver.save_last and saver.dirpath is not None:
                self._checkpoint = Path(saver.dirpath) / f"{saver.CHECKPOINT_NAME_LAST}{saver.FILE_EXTENSION}"
                return
        self._checkpoint = Path(trainer.default_root_dir) / _OWN
        trainer.save_checkpoint(self._checkpoint, weights_only=True)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Export and publish, on the first process; only where training came to its end."""
        if stage != "fit" or self._checkpoint is None or not trainer.is_global_zero or trainer.interrupted:
            return
        from lit_long_hub.export import export_checkpoint
        from lit_long_hub.proof import ExportMismatchError
        from lit_long_hub.push import push_release

        checkpoint, self._checkpoint = self._checkpoint, None
        try:
            result = export_checkpoint(
                checkpoint,
                self.output,
                dtype=self.dtype,
                max_shard_size=self.max_shard_size,
                license=self.license,
            )
            print(f"Exported {result.folder}: proved to be the model that was trained ({result.dtype})")
            if self.push_to is not None:
                published = push_release(self.output, self.push_to, tag=self.tag)
                print(f"Published {published.url} (private), commit {published.commit}")
        except (UserError, ExportMismatchError) as error:
            raise UserError(
                f"Training is finished and saved in {checkpoint}, but its release failed: {error}\n"
                f"Mend that, then: lit-long export {checkpoint} --output {self.output}"
                + (f" && lit-long push {self.output} --repo-id {self.push_to}" if self.push_to else "")
            ) from error


def _callbacks(trainer: Trainer) -> list[Callback]:
    return list(trainer.callbacks)  # type: ignore[attr-defined]
