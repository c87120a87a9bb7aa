"""LongContextModule: the one LightningModule for training a Hugging Face causal LM on packed batches.

The loss of a micro-batch is the sum of its target losses over the target weight of the **whole optimizer step** (all
ranks and micro-batches), so the gradient is the exact token mean however the step is divided. Lightning divides by the
accumulation count and data-parallel strategies average over ranks; both are multiplied back here.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch.distributed.tensor import DTensor

from lit_long.attention.select import Selection
from lit_long.bad_steps import BadSteps, StepJudge
from lit_long.bad_steps_report import report_bad_step
from lit_long.errors import UserError
from lit_long.loss.linear import Backend
from lit_long.model.build import BuiltModel, ModelSpec, build_model, native_config
from lit_long.model.forward import next_token_loss, unwrapped
from lit_long.model.levers import NO_LEVERS, Levers, recomputed
from lit_long.model.lora import LoraSettings, plain_lora_config
from lit_long.model.memory import RunFacts, device_memory
from lit_long.model.output_layer import check_output_layer
from lit_long.model.rope_stages import RopeStages
from lit_long.optim import OptimizerSettings, adamw, reapply, schedule
from lit_long.optim.norm import clip_gradients, gradient_norm
from lit_long.parallel.load import LoadReport
from lit_long.parallel.placement import ShardedPlacement
from lit_long.record import checkpoint_record
from lit_long.repository import model_at
from lit_long.rope import NoScaling, RopeScaling

PRECISIONS = ("32-true", "bf16-mixed")


class LongContextModule(LightningModule):
    """A causal LM at a new context length.

    Args:
        context_length: the context length, in tokens, that the model is trained for.
        model: Hub id, ``hf://org/name@revision`` or folder of the base model.
        model_config: instead of ``model``: a transformers config (with ``model_type``) to train from scratch.
        tokenizer: Hub id or folder of the tokenizer that is exported with the model; default: ``model``.
        revision: Hub revision of the base model.
        rope: how positions are extended; default: as they are in the base model.
        rope_schedule: instead of ``rope``: one method for each stage of the data's ``schedule``, switched at the
            stage's first step. The last is what the run ends with.
        optimizer: AdamW and its schedule.
        lora: low-rank adapters instead of full training.
        attention: ``packed`` (documents do not see each other, memory linear in length) or ``sdpa`` (transformers').
        attention_backend: kernel of ``packed``: ``auto`` (measured at the first batch), ``varlen``, ``flash_attn_2``,
            ``flash_attn_3``, ``flash_attn_4``, ``cudnn`` or ``sdpa`` (docs/attention.md).
        levers: memory and speed (activation checkpointing and more); default: what length and memory ask for.
        loss_chunk_size: tokens whose logits exist at once; default: about 48 MiB of logits on a CPU, 512 MiB on a GPU.
        loss_backend: ``auto`` (on a GPU the fastest that agrees, measured once), ``chunked`` (our own; the same bits in
            every run), ``torch`` or ``liger``.
        z_loss: factor of the squared log-normaliser in the loss, e.g. 1e-4; 0: none. It is logged apart from the loss.
        bad_steps: what to do with a step whose loss or gradient is NaN or explodes; default: stop at NaN.

    Raises:
        UserError: see :func:`lit_long.model.build.native_config` and :func:`lit_long.rope.scale_rope`.
    """

    def __init__(
        self,
        *,
        context_length: int,
        model: str | None = None,
        model_config: dict[str, Any] | None = None,
        tokenizer: str | None = None,
        revision: str | None = None,
        rope: RopeScaling | None = None,
        rope_schedule: list[RopeScaling] | None = None,
        optimizer: OptimizerSettings | None = None,
        lora: LoraSettings | None = None,
        attention: Literal["packed", "sdpa"] = "packed",
        attention_backend: str = "auto",
        levers: Levers | None = None,
        loss_chunk_size: int | None = None,
        loss_backend: Backend = "auto",
        z_loss: float = 0.0,
        bad_steps: BadSteps | None = None,
    ) -> None:
        super().__init__()
        if rope is not None and rope_schedule is not None:
            raise UserError("give model.rope, or model.rope_schedule (one method for each stage), and not both")
        if rope_schedule is not None and not rope_schedule:
            raise UserError("model.rope_schedule is empty; give one method for each stage, or model.rope")
        if model is not None:
            model, revision = model_at(model, revision)
        self.spec = ModelSpec(
            model=model,
            model_config=model_config,
            revision=revision,
            rope=rope_schedule[-1] if rope_schedule else rope if rope is not None else NoScaling(),
            context_length=context_length,
            attention=attention,
            attention_backend=attention_backend,
            lora=lora,
            levers=levers if levers is not None else Levers(),
        )
        self.optimizer_settings = optimizer if optimizer is not None else OptimizerSettings()
        self.tokenizer_name = tokenizer if tokenizer is not None else model
        if z_loss < 0 or (loss_chunk_size is not None and loss_chunk_size < 1):
            raise UserError(
                f"model.z_loss is {z_loss}, it must be 0 or more; model.loss_chunk_size is {loss_chunk_size}, it must "
                f"be at least 1, or null"
            )
        self.loss_chunk_size, self.loss_backend, self.z_loss = loss_chunk_size, loss_backend, z_loss
        self.judge = StepJudge(bad_steps if bad_steps is not None else BadSteps())
        Selection(attention_backend)  # is it there?
        self.model: Any = None
        self.built: BuiltModel | None = None
        self._loaded: LoadReport | None = None
        self._step_losses: torch.Tensor | float = 0.0  # [cross-entropy, z-loss] of the step so far
        self._started = time.monotonic()
        self._seconds_before = 0.0  # spent before a resume
        self.strict_loading = lora is None  # adapter checkpoints leave the frozen base out
        # before anything is downloaded or allocated: does this rope fit this model?
        config = native_config(self.spec)
        self.positions = RopeStages(self.spec, config, rope_schedule)
        # what the data wants to know: cost of attention beside the rest of a layer, and which documents are long
        self.hidden_size, self.native_length = int(config.hidden_size), self.positions.native.native_length

    # -- building ---------------------------------------------------------------------------------------------------
    def configure_model(self) -> None:
        """Build the model, once; Lightning calls this for every stage."""
        if self.model is None:
            placement = self._placement()
            self.built = build_model(self.spec, self.run_facts(), placement)
            self._loaded = placement.report if placement is not None else None
            self.model = self.built.model

    def _placement(self) -> ShardedPlacement | None:
        """How a strategy that shards models wants this one; None: whole, where it is."""
        sharding = getattr(self.trainer.strategy, "sharding", None) if self._trainer is not None else None
        return None if sharding is None else ShardedPlacement(sharding, self.spec.model, self.spec.revision)

    def run_facts(self) -> RunFacts | None:
        """What memory depends on in this run; None where nobody knows its lengths."""
        data = getattr(self.trainer, "datamodule", None) if self._trainer is not None else None
        spans = getattr(data, "spans", ())
        if not spans:
            return None
        longest = max(spans, key=lambda span: span.sequence_length * span.micro_batch)
        length, rows = longest.sequence_length, longest.micro_batch
        device = self.trainer.strategy.root_device
        sharding = getattr(self.trainer.strategy, "sharding", None)
        context = sharding.context if sharding is not None else 1
        length = -(-length // context)
        half = sharding is not None and sharding.param_dtype == "bfloat16"
        processes = int(getattr(self.trainer.strategy, "num_processes", 1)) if device.type == "cpu" else 1
        return RunFacts(
            sequence_length=length,
            micro_batch=rows,
            memory=device_memory(device, processes),
            device_type=device.type,
            precision="bf16-gathered" if half else str(self.trainer.precision),
            optimizer_states=self.optimizer_settings.states,
            loss_chunk_size=self.loss_chunk_size,
            shards=None if sharding is None else sharding.mesh.size(sharding.mesh.ndim - 1),
            context=context,
            accumulates=longest.sequences_per_step > rows * (self.trainer.world_size // context),
            resharded=sharding is None or bool(sharding.reshard_after_forward),
            parameters_on_host=sharding is not None and sharding.cpu_offload,
        )

    @property
    def _sharded(self) -> bool:
        return any(isinstance(parameter, DTensor) for parameter in self.parameters())

    @property
    def recomputed(self) -> dict[str, float]:
        """Shares of the layers' matrices and of attention that the backward pass computes again."""
        return recomputed(self.model, self.built.levers if self.built is not None else NO_LEVERS)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW with the schedule over ``trainer.max_steps`` optimizer steps."""
        optimizer = adamw(self.model.parameters(), self.optimizer_settings)
        spans = getattr(getattr(self.trainer, "datamodule", None), "spans", ())
        later = [span.first_step for span in spans[1:]]
        scheduler = schedule(optimizer, self.optimizer_settings, self._steps(), later)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _steps(self) -> int:
        if self.trainer.max_steps < 1:
            raise UserError("trainer.max_steps is not set; a run has a fixed number of optimizer steps, e.g. 100000")
        return self.trainer.max_steps

    # -- training ---------------------------------------------------------------------------------------------------
    def setup(self, stage: str) -> None:
        """Refuse settings that would make the run silently wrong.

        Raises:
            UserError: a precision that rounds positions, data longer than the context the model is scaled for, or a
                rope schedule that does not fit the data's.
        """
        precision = self.trainer.precision
        if precision not in PRECISIONS:
            why = "rounds rotary positions to 8 bits" if precision == "bf16-true" else "is not supported"
            raise UserError(f"trainer.precision is {precision!r}, which {why}; use one of {list(PRECISIONS)}")
        data = getattr(self.trainer, "datamodule", None)
        length = getattr(data, "sequence_length", None)
        if length is not None and length > self.spec.context_length:
            raise UserError(
                f"data.sequence_length is {length}, beyond model.context_length {self.spec.context_length}; "
                f"raise model.context_length (and rope with it) or shorten the sequences"
            )
        if stage == "fit":
            self.positions.plan(getattr(data, "spans", ()))
        self._steps_before = 0

    def on_fit_start(self) -> None:
        """On the live module, on its device: positions as the formula says, logits as the loss assumes."""
        assert self.built is not None
        report = self.positions.prove(self.model)
        self.positions.switch(self.model, self.positions.at(self._steps_before - 1))
        check_output_layer(self.model)
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        total = sum(p.numel() for p in self.parameters())
        self.print(
            f"{unwrapped(self.model).config.model_type}: {total:,} parameters, {trainable:,} trained; context "
            f"{self.built.native.native_length:,} -> {self.spec.context_length:,}; {report}"
        )
        if self._loaded is not None:
            self.print(f"weights: {self._loaded}")
        for reason in self.built.reasons:
            self.print(reason)

    def on_train_start(self) -> None:
        """Settings of this run win over those of a resumed checkpoint."""
        self._started = time.monotonic()
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        reapply(optimizer.optimizer, scheduler, self.optimizer_settings)  # type: ignore[arg-type, union-attr]

    def on_train_batch_start(self, batch: dict[str, Any], batch_index: int) -> None:
        """Switch positions at the first step of a stage."""
        self.positions.switch(self.model, self.positions.at(self.trainer.global_step))

    def rope_parameters_at(self, step: int) -> dict[str, Any]:
        """transformers' ``rope_parameters`` in optimizer step ``step`` (0-based) of the run."""
        return self.positions.parameters_at(step)

    def training_step(self, batch: dict[str, Any], batch_index: int) -> torch.Tensor:
        """Loss of a packed micro-batch, scaled so that the step's gradient is the exact token mean."""
        if "step_target_weight" not in batch:
            raise UserError(
                "the batch has no step_target_weight (targets in the whole optimizer step, over all ranks and "
                "micro-batches); use lit_long.data.PretrainData, or put it into your batches"
            )
        sums = next_token_loss(
            self.model, batch, chunk_size=self.loss_chunk_size, z_loss=self.z_loss, backend=self.loss_backend
        )
        whole = max(batch["step_target_weight"], 1e-9)
        self._step_losses = self._step_losses + torch.stack([sums.loss.detach() - sums.z_loss, sums.z_loss]) / whole
        return sums.loss / whole * self.trainer.accumulate_grad_batches * self.trainer.world_size

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the step's cross-entropy over all its tokens, its gradient norm before clipping, the learning rate."""
        losses = torch.as_tensor(self._step_losses, device=self.device)
        self._step_losses = 0.0
        loss, z_loss = self.trainer.strategy.reduce(losses, reduce_op="sum")
        norm = self._gradient_norm = gradient_norm(self.parameters())
        rate = optimizer.param_groups[0]["lr"]
        both = torch.stack([loss.double(), norm.to(loss.device).double()]).tolist()
        if (why := self.judge.reason(*both)) is not None:
            self._bad_step(why, loss=both[0], grad_norm=both[1], lr=float(rate))
        values = {"loss": loss, "grad_norm": norm, "lr": rate} | ({"z_loss": z_loss} if self.z_loss else {})
        if self.judge.settings.action == "skip":
            values["skipped_steps"] = float(self.judge.skipped)
        self.log_dict(values, on_step=True, on_epoch=False, rank_zero_only=True)

    def _bad_step(self, why: str, **values: float) -> None:
        """Report a bad step and skip it, on all ranks alike.

        Raises:
            UserError: the run stops here.
        """
        skipped = self.judge.skips()
        folder = self.trainer.log_dir or self.trainer.default_root_dir  # a collective
        step, data = self.trainer.global_step, getattr(self.trainer, "datamodule", None)
        where, documents = report_bad_step(
            Path(folder), step, why, values, data, skipped=skipped, write=self.trainer.is_global_zero
        )
        message = f"step {step}: {why}; documents of the step: {documents}; all of them: {where}"
        if not skipped:
            limit = f" after {self.judge.settings.max_skipped} skipped in a row" if self.judge.skipped else ""
            raise UserError(
                f"{message}. The run stops{limit}: lower the learning rate, look at these documents, or set "
                f"model.bad_steps.action: skip"
            )
        if self.trainer.is_global_zero:
            rank_zero_warn(f"{message}. The step is skipped ({self.judge.skipped} so far)")
        for parameter in self.parameters():  # an optimizer passes over what has no gradient: no decay, no moment
            parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the norm that is logged, which is the same however the parameters are sharded."""
        if not gradient_clip_val:
            return
        if gradient_clip_algorithm not in (None, "norm"):
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        clip_gradients(self.parameters(), self._gradient_norm, float(gradient_clip_val))

    # -- validation -------------------------------------------------------------------------------------------------
    def on_validation_epoch_start(self) -> None:
        """Start new sums, one for each held-out source."""
        self._held_out = torch.zeros(max(1, len(self._held_out_names())), 2, dtype=torch.float64, device=self.device)

    def _held_out_names(self) -> list[str]:
        return list(getattr(getattr(self.trainer, "datamodule", None), "validation_names", []))

    def validation_step(self, batch: dict[str, Any], batch_index: int, dataloader_idx: int = 0) -> None:
        """Add the batch's loss and target count to those of its held-out source."""
        sums = next_token_loss(self.model, batch, chunk_size=self.loss_chunk_size)
        both = torch.stack([sums.loss.double(), sums.weight.double()])
        self._held_out[min(dataloader_idx, len(self._held_out) - 1)] += both

    def on_validation_epoch_end(self) -> None:
        """Token means over all ranks, of all sources and of each: sums and counts are added, then divided."""
        by_source = self.trainer.strategy.reduce(self._held_out, reduce_op="sum")
        total = by_source.sum(dim=0)
        self.log("val_loss", total[0] / total[1].clamp(min=1), rank_zero_only=True)
        if len(by_source) > 1:
            for name, (loss, count) in zip(self._held_out_names(), by_source, strict=True):
                self.log(f"val_loss/{name}", loss / count.clamp(min=1), rank_zero_only=True)

    # -- checkpoints ------------------------------------------------------------------------------------------------
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the record that export and evaluate rebuild the model from; leave frozen base weights out."""
        assert self.built is not None
        live = self.positions.live  # in the middle of a run, not the positions that it will end with
        checkpoint["lit_long"] = checkpoint_record(
            spec=replace(self.spec, rope=live.scaling, context_length=live.context_length),
            config=unwrapped(self.model).config,
            native=self.built.native,
            tokenizer=self.tokenizer_name,
            lora=plain_lora_config(self.model),
            optimizer=self.optimizer_settings,
            trainer=self.trainer,
            seconds=self._seconds_before + time.monotonic() - self._started,
        )
        checkpoint["lit_long_bad_steps"] = self.judge.state()
        if self.spec.lora is not None and not self._sharded:
            trained = {name for name, p in self.named_parameters() if p.requires_grad}
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this run, and take its positions.

        Raises:
            UserError: the checkpoint was trained with other positions or another data order, so that going on would
                silently be another run.
        """
        record = checkpoint.get("lit_long")
        if record is None:
            raise UserError("the checkpoint is not one of lit-long; start from weights with model: FOLDER instead")
        self._steps_before = int(checkpoint["global_step"])
        if "lit_long_bad_steps" in checkpoint:
            self.judge.load(checkpoint["lit_long_bad_steps"])
        stage = self.positions.of_checkpoint(record["rope"], steps=self._steps_before, fitting=self.trainer.training)
        self.positions.switch(self.model, stage)
        if self.spec.lora is not None and "state_dict" in checkpoint:  # a sharded one is compared where it is read
            trained = {name for name, p in self.named_parameters() if p.requires_grad}
            if trained != set(checkpoint["state_dict"]):
                raise UserError("the checkpoint's trained tensors are not those of this run; check model.lora")
        self._seconds_before = float(record["training"].get("seconds", 0.0))
