"""FSDP2 on a causal LM: each decoder layer a group of its own, the rest (embeddings, last norm, output layer) the root.

Parameters stay float32 and sharded over all data and context ranks; a layer's are gathered just before it runs, in
``param_dtype``; gradients are reduced in float32. Buffers, the rotary frequencies above all, are never cast.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from lit_long.errors import UserError
from lit_long.model.layers import decoder_layers


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How a model is sharded.

    Attributes:
        mesh: one dimension, or (replicate, shard).
        device: of this rank.
        context: context-parallel ranks.
        param_dtype: that parameters are gathered and computed in.
        reshard_after_forward: free a layer's gathered parameters after its forward pass, or only to shards over so
            many ranks.
        cpu_offload: sharded parameters, gradients and optimizer states live in CPU memory.
        prefetch: layers whose parameters are on their way while one computes; 1 is FSDP2's own.
    """

    mesh: DeviceMesh
    device: torch.device
    context: int = 1
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    reshard_after_forward: bool | int = True
    cpu_offload: bool = False
    prefetch: int = 1

    @property
    def parameter_device(self) -> torch.device:
        """Where sharded parameters are."""
        return torch.device("cpu") if self.cpu_offload else self.device


def shard_model(model: Any, sharding: Sharding) -> None:
    """Shard a transformers causal LM (bare or in a peft wrapper) in place; on the meta device or with weights.

    Raises:
        UserError: its decoder layers are not found, or it is sharded already.
    """
    if any(isinstance(module, FSDPModule) for module in model.modules()):
        raise UserError(f"{type(model).__name__} is sharded already; shard a model once")
    layers = decoder_layers(model)
    options: dict[str, Any] = {
        "mesh": sharding.mesh,
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if sharding.param_dtype == "bfloat16" else None,
            reduce_dtype=torch.float32,
        ),
        "offload_policy": CPUOffloadPolicy() if sharding.cpu_offload else OffloadPolicy(),
    }
    if all(p.dtype == torch.float64 for p in model.parameters()):  # for proofs
        options["mp_policy"] = MixedPrecisionPolicy()
    for layer in layers:
        fully_shard(layer, reshard_after_forward=sharding.reshard_after_forward, **options)
    # the root's parameters are needed at both ends of a step
    fully_shard(model, reshard_after_forward=False, **options)
    if sharding.prefetch > 1:
        _prefetch(layers, sharding.prefetch)


def _prefetch(layers: list[nn.Module], count: int) -> None:
    for index, layer in enumerate(layers):
        ahead: Any = layers[index + 1 : index + 1 + count]
        behind: Any = layers[max(0, index - count) : index][::-1]
        layer.set_modules_to_forward_prefetch(ahead)  # type: ignore[operator]
        layer.set_modules_to_backward_prefetch(behind)  # type: ignore[operator]


def sync_gradients(model: nn.Module, sync: bool) -> None:
    """Reduce gradients in the next backward passes, or keep this rank's own, whole (FSDP2 modules inside ``model``)."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_requires_gradient_sync(sync, recurse=False)
