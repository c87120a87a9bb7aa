"""Build a model that no process holds whole: on the meta device, sharded, then each rank fills its own share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from lit_long.parallel.load import LoadReport, load_shards, restore_buffers
from lit_long.parallel.sharding import Sharding, shard_model


@dataclass
class ShardedPlacement:
    """See :class:`lit_long.model.build.Placement`.

    Args:
        sharding: mesh and policies.
        name: Hub id or folder of the weights; None: the model starts from random ones, made whole on every rank (with
            one seed) before it is sharded.
        revision: Hub revision.
    """

    sharding: Sharding
    name: str | None
    revision: str | None = None
    report: LoadReport | None = None

    def empty(self, make: Callable[[], Any], *, pretrained: bool) -> Any:
        """The model on the meta device, or with random weights that are the same on all ranks."""
        if pretrained:
            with torch.device("meta"):
                return make()
        seed = torch.tensor(torch.initial_seed() % 2**62, device=self.sharding.device)
        torch.distributed.broadcast(seed, 0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seed))
            return make()

    def place(self, model: Any) -> None:
        """Shard the model, then load this rank's share; adapters keep the values that they began with."""
        if self.name is None:
            shard_model(model, self.sharding)
            return
        begun = {name: p.detach() for name, p in model.named_parameters() if not p.is_meta}  # adapters: small
        model.to("meta")
        shard_model(model, self.sharding)
        model.to_empty(device=self.sharding.parameter_device)
        self.report = load_shards(model, self.name, revision=self.revision)
        restore_buffers(model)
        for name, parameter in model.named_parameters():
            if name in begun:
                _fill(parameter, begun[name])


@torch.no_grad()
def _fill(parameter: torch.nn.Parameter, value: torch.Tensor) -> None:
    if not isinstance(parameter, DTensor):
        parameter.copy_(value)
        return
    whole = value.to(parameter.to_local().device, parameter.dtype)
    torch.distributed.broadcast(whole, 0)  # adapters are drawn at random, perhaps without a seed
    own = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    parameter.to_local().copy_(own.to_local())
