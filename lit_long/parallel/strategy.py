"""FSDP2 x context parallelism as a Lightning strategy."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from lit_long.attention import PACKED, use_packed_attention
from lit_long.attention.packed import set_exchange
from lit_long.errors import UserError
from lit_long.model.find import huggingface_models
from lit_long.model.sharded_checkpoint import is_sharded_checkpoint, read_metadata
from lit_long.parallel.checkpoint import load_sharded, save_sharded
from lit_long.parallel.exchange import GatherExchange
from lit_long.parallel.mesh import Meshes, make_meshes
from lit_long.parallel.sharding import Sharding, shard_model, sync_gradients
from lit_long.parallel.split import split_batch

# what gloo and NCCL say
_LOST_RANK = (
    "Timed out waiting", "Connection closed by peer", "Connection reset by peer", "Broken pipe",
    "timed out", "NCCL communicator was aborted", "Socket closed",
)  # fmt: skip


class ContextParallelStrategy(ModelParallelStrategy):
    """Parameters sharded over all devices (FSDP2), rows over data-parallel and each row over context-parallel ones.

    A packed batch (:mod:`lit_long.parallel.split`: ``input_ids`` and ``position_ids`` [B, S], other tensors alike) that
    a data-parallel rank's loader gives is cut where Lightning moves it to the device; hooks and ``training_step`` see
    this rank's share. Transformers models in the module are sharded, and with several context ranks switched to packed
    attention, if the module's ``configure_model`` has not done so. Gradients are averaged over **all** ranks: scale a
    rank's summed loss by world size / targets of the whole step for the exact token mean (``LongContextModule`` does).

    Args:
        data_parallel_size: devices with different rows; ``auto``: what context parallelism leaves.
        context_parallel_size: devices that share a row; ``auto``: those of a node.
        replicate_size: copies of the model (hybrid sharding); each copy is sharded over the devices that are left.
        param_dtype: parameters are gathered and computed in it; they, and the reduction of gradients, are float32.
            With ``bfloat16`` leave ``trainer.precision`` at ``32-true``.
        reshard_after_forward: free gathered parameters after a layer's forward pass and gather them again in the
            backward; false: keep them (more memory, less communication); a number: keep them sharded over so many.
        cpu_offload: parameters, gradients and optimizer states in CPU memory (on CUDA).
        prefetch: layers whose parameters are gathered ahead.
        reduce_gradients: after ``each_micro_batch``, or with the ``last`` one of a step only: less communication, but
            whole gradients are kept meanwhile.
        save_distributed_checkpoint: every rank saves its shards into a folder; false: one file, gathered on rank 0.
        process_group_backend: default: ``nccl`` on CUDA, ``gloo`` on a CPU.
        timeout: after which a collective that a rank does not join ends the run.

    Raises:
        UserError: sizes that do not multiply to the number of processes, a model that cannot be split, or options that
            exclude each other.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        context_parallel_size: Literal["auto"] | int = "auto",
        replicate_size: int = 1,
        param_dtype: Literal["float32", "bfloat16"] = "float32",
        reshard_after_forward: bool | int = True,
        cpu_offload: bool = False,
        prefetch: int = 1,
        reduce_gradients: Literal["each_micro_batch", "last"] = "each_micro_batch",
        save_distributed_checkpoint: bool = True,
        process_group_backend: str | None = None,
        timeout: timedelta | None = default_pg_timeout,
    ) -> None:
        super().__init__(
            data_parallel_size=data_parallel_size,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        if prefetch < 1:
            raise UserError(f"strategy: prefetch is {prefetch}; it must be 1 or more")
        self._context_size, self._replicate_size = context_parallel_size, replicate_size
        self._param_dtype, self._reshard = param_dtype, reshard_after_forward
        self._cpu_offload, self._prefetch, self._reduce = cpu_offload, prefetch, reduce_gradients
        self._meshes: Meshes | None = None

    # -- processes ----------------------------------------------------------------------------------------------------
    def setup_environment(self) -> None:
        """Join the processes and lay out the mesh, before ``configure_model``."""
        super(ModelParallelStrategy, self).setup_environment()
        self._setup_distributed()
        if self._cpu_offload and self.root_device.type != "cuda":
            raise UserError("strategy: cpu_offload is for CUDA; leave it out on a CPU")
        context = self.num_processes if self._context_size == "auto" else self._context_size
        data = max(1, self.world_size // context) if self._data_parallel_size == "auto" else self._data_parallel_size
        self._meshes = make_meshes(
            self.root_device.type,
            self.world_size,
            data_parallel=data,
            context=context,
            replicate=self._replicate_size,
        )
        self._device_mesh = self._meshes.data
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    @property
    def sharding(self) -> Sharding:
        """How models are sharded, for a module that does so itself in ``configure_model``."""
        assert self._meshes is not None
        return Sharding(
            mesh=self._meshes.shard,
            device=self.root_device,
            context=self.context_parallel_size,
            param_dtype=self._param_dtype,
            reshard_after_forward=self._reshard,
            cpu_offload=self._cpu_offload,
            prefetch=self._prefetch,
        )

    @property
    def context_parallel_size(self) -> int:
        """Devices that share a row."""
        return int(self.device_mesh["context_parallel"].size())

    # -- model --------------------------------------------------------------------------------------------------------
    def setup(self, trainer: Trainer) -> None:
        """Shard what is not sharded yet, move the rest, make the optimizers."""
        assert self.model is not None
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        models = list(huggingface_models(self.model))
        if not models:
            raise UserError(
                f"context_parallel: {type(self.lightning_module).__name__} has no transformers model in it, and other "
                f"models cannot be split along the sequence"
            )
        for model in models:
            self._prepare(model)
        self.model_to_device()
        self.barrier()
        if trainer.state.fn == TrainerFn.FITTING:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def _prepare(self, model: Any) -> None:
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        if self.context_parallel_size > 1 and inner.config._attn_implementation != PACKED:
            if is_overridden("configure_model", self.lightning_module):  # the attention was chosen there
                raise UserError(
                    f"context_parallel: the attention of {inner.config.model_type} is "
                    f"{inner.config._attn_implementation!r}, which cannot be split; set model.attention: packed (or "
                    f"call lit_long.attention.use_packed_attention)"
                )
            use_packed_attention(inner)
        if self.context_parallel_size > 1:
            _require_splittable(inner.config)
        if not any(isinstance(parameter, DTensor) for parameter in model.parameters()):
            shard_model(model, self.sharding)
        tensors = (*model.named_parameters(), *model.named_buffers())
        if meta := [name for name, tensor in tensors if tensor.is_meta]:
            raise UserError(
                f"context_parallel: {len(meta)} tensors of {inner.config.model_type} have no values ({meta[:2]}); "
                f"materialise and load them in configure_model (lit_long.parallel.load)"
            )

    def model_to_device(self) -> None:
        """Move what is not sharded; shards are where they belong, which with offload is not the device."""
        if not self._cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(self.root_device)

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Around micro-batches that are not a step's last."""
        assert self.model is not None
        if self._reduce == "each_micro_batch":
            yield
            return
        sync_gradients(self.model, False)
        try:
            yield
        finally:
            sync_gradients(self.model, True)

    def on_exception(self, exception: BaseException) -> None:
        """Say so where a collective failed because another rank is not there any more, or hangs.

        Raises:
            UserError: in place of torch's error.
        """
        text = str(exception)
        if isinstance(exception, RuntimeError) and any(sign in text for sign in _LOST_RANK):
            raise UserError(
                f"process {self.global_rank} of {self.world_size} ends because another process of this run died or "
                f"did not join a collective within {self._timeout}; what happened to it is in that process' own "
                f"output. Go on with --ckpt_path last. ({text.splitlines()[0][:200]})"
            ) from exception
        super().on_exception(exception)

    # -- batches ------------------------------------------------------------------------------------------------------
    def batch_to_device(self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0) -> Any:
        """This rank's share of a packed batch, on the device; anything else whole."""
        assert self.model is not None
        split = self.context_parallel_size > 1 and isinstance(batch, dict) and "input_ids" in batch
        if not split:
            set_exchange(self.model, None)
            return super().batch_to_device(batch, device, dataloader_idx)
        group = self.device_mesh["context_parallel"].get_group()
        share, layout = split_batch(batch, group)
        moved = super().batch_to_device(share, device, dataloader_idx)
        set_exchange(self.model, GatherExchange(layout, group, moved["position_ids"]))
        return moved

    # -- checkpoints --------------------------------------------------------------------------------------------------
    @property
    def _trained_only(self) -> bool:
        """Checkpoints of adapters leave the frozen base out."""
        assert self.lightning_module is not None
        return not self.lightning_module.strict_loading

    def _options(self, **kwargs: Any) -> StateDictOptions:
        return StateDictOptions(ignore_frozen_params=self._trained_only, strict=not self._trained_only, **kwargs)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Weights: this rank's shards, or all of them on rank 0 for a single file."""
        assert self.model is not None
        options = self._options(full_state_dict=not self._save_distributed_checkpoint, cpu_offload=True)
        return get_model_state_dict(self.model, options=options)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """States of an optimizer, by parameter name where they are sharded."""
        if not self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        assert self.model is not None
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return get_optimizer_state_dict(self.model, inner, options=self._options(cpu_offload=True))

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Save on all ranks together; see :mod:`lit_long.parallel.checkpoint`."""
        if not self._save_distributed_checkpoint:
            super().save_checkpoint(checkpoint, filepath, storage_options)
            return
        path = Path(self.broadcast(str(filepath)))
        state = {"state_dict": checkpoint.pop("state_dict")}
        for number, states in enumerate(checkpoint.pop("optimizer_states", [])):
            state[f"optimizer_{number}"] = states
        save_sharded(path, state, checkpoint, self.barrier)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Restore weights and optimizers, each rank its shards; the rest is returned.

        Raises:
            UserError: no checkpoint there, or one of another model.
        """
        path = Path(self.broadcast(str(checkpoint_path)))
        if path.is_file():
            return super().load_checkpoint(path, weights_only)
        if not is_sharded_checkpoint(path):
            what = "is no complete checkpoint: its save was not finished" if path.exists() else "does not exist"
            raise UserError(f"checkpoint {path} {what}; give another, or --ckpt_path last for the newest complete one")
        assert self.model is not None
        weights = get_model_state_dict(self.model, options=self._options())
        load_sharded(path, {"state_dict": weights})
        set_model_state_dict(self.model, weights, options=self._options())
        for number, optimizer in enumerate(self.optimizers):
            states = {f"optimizer_{number}": get_optimizer_state_dict(self.model, optimizer, options=self._options())}
            load_sharded(path, states)
            set_optimizer_state_dict(self.model, optimizer, states[f"optimizer_{number}"], options=self._options())
        return read_metadata(path)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Nothing is left to do: :meth:`load_checkpoint` has."""

    @classmethod
    def register_strategies(cls, strategy_registry: Any) -> None:
        """Make ``strategy: context_parallel`` known to Lightning."""
        strategy_registry.register(
            "context_parallel", cls, description="FSDP2 x context parallelism for packed documents"
        )


def _require_splittable(config: Any) -> None:
    """Say before the first step what attention would refuse in it."""
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "xpos":
        raise UserError(
            "context_parallel: xPos cannot be split yet; set context_parallel_size: 1, or another model.rope"
        )
    if getattr(config, "attention_dropout", 0):
        raise UserError(
            f"context_parallel: attention_dropout is {config.attention_dropout}, and dropout cannot be split; set it "
            f"to 0, or context_parallel_size: 1"
        )


def _register() -> None:
    if "context_parallel" not in StrategyRegistry:
        ContextParallelStrategy.register_strategies(StrategyRegistry)


_register()
