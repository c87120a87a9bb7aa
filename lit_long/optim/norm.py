"""The norm of all gradients, the same number however parameters are sharded.

Squares are added in float64: float32 sums of a large matrix are off by some 1e-5, differently for each way to shard it.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Shard


@torch.no_grad()
def gradient_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """Euclidean norm of the gradients, float32 scalar, equal on all ranks; 0 without gradients.

    Sharded gradients (DTensor) are added over the ranks that hold the other shards; all ranks must call this.
    """
    sums: dict[tuple[dist.ProcessGroup, ...], torch.Tensor] = {}
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        groups: tuple[dist.ProcessGroup, ...] = ()
        if isinstance(gradient, DTensor):
            mesh, placements = gradient.device_mesh, gradient.placements
            groups = tuple(mesh.get_group(d) for d, place in enumerate(placements) if isinstance(place, Shard))
            gradient = gradient.to_local()
        square = torch.linalg.vector_norm(gradient, dtype=torch.float64).square()
        sums[groups] = sums[groups] + square if groups in sums else square
    total = torch.zeros((), dtype=torch.float64)
    for groups, square in sums.items():
        on_mesh = square
        if groups and dist.get_backend(groups[0]) == "nccl":
            on_mesh = square.to("cuda")  # with offload, gradients are on the host
        for group in groups:
            dist.all_reduce(on_mesh, group=group)
        total = total.to(on_mesh.device) + on_mesh
    return total.sqrt().float()


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], norm: torch.Tensor, limit: float) -> None:
    """Scale gradients so that their norm is at most ``limit``, without waiting for the device."""
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    for parameter in parameters:
        if parameter.grad is not None:
            local = parameter.grad.to_local() if isinstance(parameter.grad, DTensor) else parameter.grad
            local.mul_(factor.to(local.device, local.dtype))
