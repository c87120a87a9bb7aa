"""How a recipe's ``trainer`` lays a run over devices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_long.errors import UserError

_WHOLE = ("auto", "single_device")
_SHARDED = ("ContextParallelStrategy", "context_parallel")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Ranks and how they share the work.

    Attributes:
        devices: on a node.
        nodes: of them.
        context: ranks that share a row.
        replicas: copies of the model; parameters are sharded over the ranks of each.
        sharded: parameters are sharded (FSDP2); else there is one device.
        bfloat16: parameters are gathered and computed in bfloat16.
        resharded: a layer's gathered parameters are freed after its forward pass.
        parameters_on_host: FSDP2's CPU offload.
        reduce_last: gradients are reduced after the last micro-batch of a step only.
        assumed: the recipe names no strategy; this one was taken for it.
    """

    devices: int
    nodes: int = 1
    context: int = 1
    replicas: int = 1
    sharded: bool = True
    bfloat16: bool = False
    resharded: bool = True
    parameters_on_host: bool = False
    reduce_last: bool = False
    assumed: bool = False

    def __post_init__(self) -> None:
        if min(self.devices, self.nodes, self.context, self.replicas) < 1:
            raise UserError("devices, num_nodes, context_parallel_size and replicate_size must be at least 1")
        if self.ranks % self.context:
            fitting = [n for n in range(1, self.ranks + 1) if self.ranks % n == 0]
            raise UserError(
                f"context_parallel_size {self.context} does not divide {self.nodes} x {self.devices} devices; it may "
                f"be {fitting}"
            )
        if self.data % self.replicas:
            raise UserError(f"replicate_size {self.replicas} must divide the {self.data} data-parallel ranks")

    @property
    def ranks(self) -> int:
        """All devices."""
        return self.devices * self.nodes

    @property
    def data(self) -> int:
        """Data-parallel ranks: those with rows of their own."""
        return self.ranks // self.context

    @property
    def shards(self) -> int | None:
        """Ranks that parameters are sharded over; None: they are whole."""
        return self.ranks // self.replicas if self.sharded else None

    def __str__(self) -> str:
        mesh = f"{self.data} data x {self.context} context" if self.sharded else "whole model"
        return f"{self.nodes} x {self.devices} devices, {mesh}" + (
            f", {self.replicas} copies" if self.replicas > 1 else ""
        )


def layout_of(trainer: Mapping[str, Any], *, devices: int | None = None, nodes: int | None = None) -> Layout:
    """The layout that a recipe's ``trainer`` section asks for.

    Args:
        trainer: plain values.
        devices: on a node, instead of the recipe's.
        nodes: instead of the recipe's.

    Returns:
        The layout. A recipe that leaves the strategy open on several devices is laid out as the overlays of
        ``recipes/cluster`` do: ContextParallelStrategy, rows over the devices of a node, bfloat16 gathered where the
        recipe computes in it.

    Raises:
        UserError: the number of devices is not said, the strategy is not one that plans know, or sizes do not divide.
    """
    asked = trainer.get("devices", "auto")
    asked = len(asked) if isinstance(asked, list) else asked
    if devices is None:
        devices = int(asked) if str(asked).isdigit() else 1 if trainer.get("accelerator") == "cpu" else None
    if devices is None:
        raise UserError(
            f"trainer.devices is {asked!r}, and here is no GPU to count; give --devices N (and --num-nodes)"
        )
    nodes = int(trainer.get("num_nodes") or 1) if nodes is None else nodes
    strategy = trainer.get("strategy") or "auto"
    name = strategy if isinstance(strategy, str) else str(strategy.get("class_path", ""))
    if name.rpartition(".")[2] in _SHARDED:
        init: Mapping[str, Any] = {} if isinstance(strategy, str) else strategy.get("init_args") or {}
        context = init.get("context_parallel_size", "auto")
        return Layout(
            devices=devices,
            nodes=nodes,
            context=devices if context == "auto" else int(context),
            replicas=int(init.get("replicate_size") or 1),
            bfloat16=init.get("param_dtype") == "bfloat16",
            resharded=bool(init.get("reshard_after_forward", True)),
            parameters_on_host=bool(init.get("cpu_offload")),
            reduce_last=init.get("reduce_gradients") == "last",
        )
    if devices * nodes == 1 and name in _WHOLE:
        return Layout(devices=1, sharded=False)
    if name == "auto":
        half = str(trainer.get("precision") or "").startswith("bf16")
        return Layout(devices=devices, nodes=nodes, context=devices, bfloat16=half, assumed=True)
    raise UserError(
        f"trainer.strategy is {name!r} on {nodes} x {devices} devices; plans know one device, and "
        f"ContextParallelStrategy (lay recipes/cluster/8xh100.yaml or another of that folder over the recipe)"
    )
