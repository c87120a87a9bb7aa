"""What to change: the cheapest thing that makes a recipe fit, the fastest layout, the longest sequence."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from lit_long.errors import UserError
from lit_long.hardware import Device
from lit_long.model.levers import Levers
from lit_long.planner.layout import Layout
from lit_long.planner.plan import Plan, at_length, make_plan
from lit_long.planner.workload import Workload

_CHUNK = 512  # tokens whose logits exist at once, where memory is short
_FINEST = 1024  # tokens of a rank that a longest sequence is a multiple of


@dataclass(frozen=True)
class Change:
    """A change, the plan with it, and the overlay that makes it."""

    what: str
    plan: Plan
    overlay: dict[str, Any]


def cheapest_change(plan: Plan, *, most_nodes: int = 64) -> Change | None:
    """The cheapest of these that makes a plan fit, without those of the others that it can do without; None: none does.

    In order of cost: smaller chunks of logits; levers free to choose (checkpointing, tiles, layer inputs on the host);
    optimizer states on the host; more context-parallel ranks; more devices, with as few context-parallel ranks as fit.

    Args:
        plan: one that does not fit.
        most_nodes: where to end.
    """
    settings = _settings(plan.workload, plan.layout)
    for layout in _clusters(plan, most_nodes):
        for number in range(len(settings) + 1):
            if number == 0 and layout == plan.layout:
                continue
            taken = settings[:number]
            found = _tried(plan, layout, taken)
            if found is None:
                continue
            for setting in list(taken):  # an earlier one may not be needed
                fewer = [other for other in taken if other is not setting]
                if (fewer or layout != plan.layout) and (better := _tried(plan, layout, fewer)):
                    taken, found = fewer, better
            overlay: dict[str, Any] = {}
            for setting in taken:
                overlay = _merged(overlay, setting.overlay)
            said = [setting.what for setting in taken]
            if layout != plan.layout or layout.assumed:
                overlay = _merged(overlay, _strategy(layout))
            if layout != plan.layout:
                said.append(str(layout))
            return Change(", ".join(said), found, overlay)
    return None


@dataclass(frozen=True)
class _Setting:
    """A change of the recipe that costs little."""

    what: str
    changes: dict[str, Any]
    overlay: dict[str, Any]


def _settings(workload: Workload, layout: Layout) -> list[_Setting]:
    found = []
    if (workload.loss_chunk_size or 10**9) > _CHUNK:
        overlay: dict[str, Any] = {"model": {"loss_chunk_size": _CHUNK}}
        found.append(_Setting(f"logits of {_CHUNK} tokens at a time", {"loss_chunk_size": _CHUNK}, overlay))
    free = Levers(compile=workload.levers.compile)
    if workload.levers != free:
        auto = {"checkpointing": "auto", "checkpoint_every": 1, "offload": "auto", "tile_size": "auto"}
        found.append(_Setting("levers free to choose", {"levers": free}, {"model": {"levers": auto}}))
    if workload.optimizer_states == "float32" and not layout.sharded:
        states = {"model": {"optimizer": {"states": "host"}}}
        found.append(_Setting("optimizer states on the host", {"optimizer_states": "host"}, states))
    return found


def _clusters(plan: Plan, most_nodes: int) -> Iterator[Layout]:
    """The plan's layout, it with more context ranks, then ever more devices: a node is filled before there are two."""
    layout = plan.layout
    yield layout
    if plan.device.name == "cpu":
        return
    first = layout.context
    while layout.nodes <= most_nodes:
        size = first * 2 if layout == plan.layout else first
        while size <= layout.ranks and layout.ranks % size == 0:
            yield replace(layout, context=size, replicas=1, sharded=True)
            size *= 2
        if layout.devices < plan.device.node:
            layout = replace(layout, devices=plan.device.node, replicas=1, sharded=True)
        else:
            layout = replace(layout, nodes=layout.nodes * 2, replicas=1, sharded=True)


def _tried(plan: Plan, layout: Layout, settings: list[_Setting]) -> Plan | None:
    workload = plan.workload
    for setting in settings:
        workload = replace(workload, **setting.changes)
    try:
        now = make_plan(workload, layout, plan.device)
    except UserError:  # the rows of a step cannot be divided like that
        return None
    return now if now.fits else None


def search(workload: Workload, layout: Layout, device: Device, *, document_length: int | None = None) -> list[Plan]:
    """Plans of all context sizes, lever settings and reshardings on one cluster that fit, fastest first.

    Args:
        workload: the recipe; its micro-batch stays as it is.
        layout: the cluster.
        device: its devices.
        document_length: see :func:`lit_long.planner.speed.step_time`.
    """
    found: dict[tuple[Any, ...], Plan] = {}
    for choice in _layouts(layout):
        for levers in _levers(workload.levers, device):
            try:
                plan = make_plan(workload, choice, device, levers=levers, document_length=document_length)
            except UserError:
                continue
            if plan.fits:
                found[choice, plan.levers] = plan

    # of two that are as fast, the one with fewer levers
    def rank(plan: Plan) -> tuple[float, bool, bool, int]:
        return plan.seconds or 0.0, plan.levers.offload is True, bool(plan.levers.tile_size), plan.highest.peak.total

    return sorted(found.values(), key=rank)


def smallest_cluster(
    workload: Workload,
    layout: Layout,
    device: Device,
    *,
    hours: float,
    document_length: int | None = None,
    most_nodes: int = 256,
) -> Plan | None:
    """The fastest plan on the fewest nodes that ends within ``hours``; None where ``most_nodes`` do not."""
    nodes = 1
    while nodes <= most_nodes:
        here = replace(layout, nodes=nodes, context=1, replicas=1, sharded=layout.sharded or nodes > 1)
        plans = search(workload, here, device, document_length=document_length)
        if plans and (plans[0].seconds or 0) <= hours * 3600:
            return plans[0]
        nodes *= 2
    return None


def longest_sequence(workload: Workload, layout: Layout, device: Device) -> Plan | None:
    """The plan of the longest sequence that fits, a multiple of 1,024 tokens a context rank; None where none does.

    One row a data-parallel rank at a time, levers as the recipe asks, as many rows a step as its tokens hold (at least
    one a rank).
    """
    step = _FINEST * layout.context

    def plan(length: int) -> Plan:
        rows = max(1, workload.tokens_per_step // length // layout.data) * layout.data
        return make_plan(at_length(workload, length, rows), layout, device, timed=False)

    return _last(lambda n: plan(n * step))


def _last(plan: Callable[[int], Plan]) -> Plan | None:
    """The plan of the largest number that fits: doubled until it does not, then bisected."""
    low, high = 0, 1
    while plan(high).fits:
        low, high = high, high * 2
        if high > 2**24:
            break
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if plan(middle).fits else (low, middle)
    return plan(low) if low else None


def _layouts(layout: Layout) -> Iterator[Layout]:
    if not layout.sharded:
        yield layout
        return
    size = 1
    while size <= layout.ranks and layout.ranks % size == 0:
        for resharded in (True, False):
            yield replace(layout, context=size, replicas=1, resharded=resharded)
        size *= 2


def _levers(asked: Levers, device: Device) -> Iterator[Levers]:
    if not asked.open:
        yield asked
        return
    for checkpointing in ("none", "selective", "full"):
        for offload in (False, True):
            if offload and (checkpointing == "none" or device.name == "cpu"):
                continue
            for tile in (0, 4096):
                yield Levers(
                    checkpointing=checkpointing,
                    offload=offload,
                    tile_size=tile,
                    compile=asked.compile,
                )


def _strategy(layout: Layout) -> dict[str, Any]:
    init: dict[str, Any] = {"context_parallel_size": layout.context}
    if layout.bfloat16:
        init["param_dtype"] = "bfloat16"
    if not layout.resharded:
        init["reshard_after_forward"] = False
    strategy = {"class_path": "lit_long.parallel.ContextParallelStrategy", "init_args": init}
    trainer: dict[str, Any] = {"devices": layout.devices, "num_nodes": layout.nodes, "strategy": strategy}
    if layout.bfloat16:  # parameters and moments; computed in param_dtype
        trainer["precision"] = "32-true"
    return {"trainer": trainer}


def overlay_of(plan: Plan) -> dict[str, Any]:
    """The overlay that gives a recipe a plan's layout and levers."""
    levers = plan.levers
    settings = {"checkpointing": levers.checkpointing, "offload": levers.offload, "tile_size": levers.tile_size}
    base: dict[str, Any] = {"model": {"levers": settings}}
    return _merged(base, _strategy(plan.layout)) if plan.layout.sharded else base


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
