"""Packed attention for somebody else's LightningModule, and proof of the kernel that really runs."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.attention import attention_report, use_packed_attention
from lit_long.attention.trace import KernelTrace, attention_kernels
from lit_long.errors import UserError
from lit_long.model.find import huggingface_models


class FlashAttention(Callback):
    """Switches every Hugging Face model in a module to packed attention while it is trained.

    The first micro-batch is run under PyTorch's profiler; what is printed (and kept as ``kernels``) is what the trace
    shows, not what was set. (On a GPU ``auto`` times every candidate in that one; then it is the next.) The models' own
    attention is put back when training ends, however it ends.

    The module's batches need nothing new: documents are told apart by restarts in ``position_ids``, and rows without
    restarts are one document each.

    Args:
        backend: a kernel (``lit_long.attention.BACKENDS``), or ``auto``.

    Raises:
        UserError: no Hugging Face model in the module; one whose attention cannot be switched (named); or the trace
            shows attention whose memory grows with the square of the sequence length.
    """

    def __init__(self, *, backend: str = "auto") -> None:
        self.backend = backend
        self.kernels: dict[str, int] = {}
        self._before: list[tuple[Any, str]] = []
        self._profile: Any = None
        self._length = self._timed = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Switch all models, or none."""
        self.kernels = {}
        models = list(huggingface_models(pl_module))
        if not models:
            raise UserError(
                f"FlashAttention: {type(pl_module).__name__} has no transformers model in it (a PreTrainedModel as an "
                f"attribute, at any depth)"
            )
        try:
            for model in models:
                before = model.config._attn_implementation
                use_packed_attention(model, self.backend)
                self._before.append((model, before))
        except BaseException:
            self._restore()
            raise

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Trace the first micro-batch in which no kernel is chosen by the clock."""
        if self.kernels or self._profile is not None:
            return
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if pl_module.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._length, self._timed = _sequence_length(batch), self._timings()
        self._profile = profile(activities=activities, record_shapes=True)
        self._profile.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the trace.

        Raises:
            UserError: attention whose memory grows with the square of the length.
        """
        if self._profile is None:
            return
        trace = attention_kernels(self._close(), self._length)
        if trace.quadratic:
            raise UserError(
                f"FlashAttention: {trace.quadratic[0]} ran in the first step: its memory grows with the square of the "
                f"sequence length. Some attention of the module does not go through the model's attention function; "
                f"take it out, or train without this callback"
            )
        if self._timings() > self._timed:  # kernels that lost are in this trace, too
            return
        self.kernels = trace.kernels or {"none": 0}
        if trainer.is_global_zero:
            pl_module.print(self._text(trace))

    def _timings(self) -> int:
        """How many candidates were timed so far."""
        found = [c for model, _ in self._before for each in attention_report(model).candidates.values() for c in each]
        return sum(candidate.milliseconds is not None for candidate in found)

    def _text(self, trace: KernelTrace) -> str:
        ran = ", ".join(f"{name} ({count} calls)" for name, count in trace.kernels.items()) or "no attention at all"
        reports = "\n".join(str(attention_report(model)) for model, _ in self._before)
        return f"attention kernels of one micro-batch, forward and backward: {ran}\n{reports}"

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the models' own attention back."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the models' own attention back."""
        self._restore()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the models' own attention back."""
        self._restore()

    def _close(self) -> Any:
        profile, self._profile = self._profile, None
        profile.__exit__(None, None, None)
        return profile

    def _restore(self) -> None:
        if self._profile is not None:
            self._close()
        for model, before in self._before:
            model.set_attn_implementation(before)
        self._before = []


def _sequence_length(batch: Any) -> int:
    """Longest dimension of the batch's integer tensors."""
    if isinstance(batch, torch.Tensor):
        return 0 if batch.is_floating_point() else max(batch.shape, default=0)
    values = batch.values() if hasattr(batch, "values") else batch if isinstance(batch, list | tuple) else ()
    return max((_sequence_length(value) for value in values), default=0)
