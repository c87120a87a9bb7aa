"""How long an optimizer step takes: arithmetic at stated efficiencies, and what waits for a link.

- compute: matrix products at ``matmul`` of the device's peak, attention at ``attention`` of it, with what checkpointing
  computes again;
- FSDP2's gathering and reducing (:func:`lit_long.parallel.communication.parameter_bytes`) runs beside compute, a layer
  ahead: only what is longer than compute is waited for;
- keys, values and their gradients (``gather_bytes``) are exchanged before a layer's attention: waited for, all of it;
- layer inputs that go to the host run beside compute, too;
- the optimizer reads and writes 28 bytes a trained number (weight and two moments both ways, gradient).

A group inside a node moves data at the node's link; a larger one at what the node's network cards take in together,
which its devices share. Both at :data:`WIRE` of what is on the data sheet.
"""

from dataclasses import dataclass

from lit_long.hardware import Device
from lit_long.model.levers import Levers, recomputed
from lit_long.model.memory import PRECISIONS
from lit_long.parallel.communication import LayerShape, gather_bytes, parameter_bytes
from lit_long.planner.layout import Layout
from lit_long.planner.workload import Workload

WIRE = 0.8  # share of a link's data-sheet figure; an assumption


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of one optimizer step on a rank, and its work.

    Attributes:
        compute: matrices and attention, recomputation with them.
        recomputation: part of ``compute``.
        exchange: keys and values, waited for.
        waiting_for_parameters: gathering and reducing beyond what compute hides.
        waiting_for_host: offload beyond what compute hides.
        optimizer: its update.
        moved: bytes into the rank.
        flops: model FLOPs of the rank.
    """

    compute: float
    recomputation: float
    exchange: float
    waiting_for_parameters: float
    waiting_for_host: float
    optimizer: float
    moved: float
    flops: float

    @property
    def total(self) -> float:
        """Seconds."""
        waits = self.exchange + self.waiting_for_parameters + self.waiting_for_host
        return self.compute + waits + self.optimizer


def step_time(
    workload: Workload,
    layout: Layout,
    device: Device,
    levers: Levers,
    *,
    sequence_length: int,
    micro_batch: int,
    micro_batches: int,
    precision: str,
    document_length: int | None = None,
) -> StepTime:
    """Seconds of a step.

    Args:
        workload: the recipe.
        layout: of ranks.
        device: each of them.
        levers: nothing in them ``auto``.
        sequence_length: tokens of a row, over all its context ranks.
        micro_batch: rows at once.
        micro_batches: in a step, of a rank.
        precision: a key of :data:`lit_long.model.memory.PRECISIONS`.
        document_length: tokens of the documents in a row; default: one document a row, which costs most.
    """
    facts, flops = workload.facts, workload.flops
    tokens = sequence_length * micro_batch / layout.context
    document = min(document_length or sequence_length, sequence_length)
    pairs = tokens * (document + 1) / 2
    half = precision != "32-true"
    peak = device.bf16 if half else device.fp32
    again = recomputed(workload.model, levers)
    extra_matrices = flops.recomputation(tokens, 0, layers=again["layers"])
    extra_attention = flops.recomputation(0, pairs, layers=0, attention=again["attention"])
    matrices = flops.step(tokens, 0) / (peak * device.matmul)
    attention = flops.step(0, pairs) / (peak * device.attention)
    recomputation = extra_matrices / (peak * device.matmul) + extra_attention / (peak * device.attention)
    compute = matrices + attention + recomputation

    number = PRECISIONS[precision].compute
    shape = LayerShape(
        parameters=facts.layer_parameters,
        heads=facts.heads,
        kv_heads=facts.key_width * facts.heads // facts.query_width,
        head_dim=facts.query_width // facts.heads,
    )
    exchanged = facts.layers * gather_bytes(shape, sequence_length * micro_batch, layout.context, number_bytes=number)
    exchange = exchanged / _rate(device, layout, layout.context)
    first = each = 0.0
    if layout.shards is not None and layout.shards > 1:
        each = facts.layers * parameter_bytes(shape, layout.shards, resharded=layout.resharded, param_bytes=number)
        if facts.trained < facts.parameters / 2:  # adapters: hardly any gradient
            each *= number * (1 + layout.resharded) / (number * (1 + layout.resharded) + 4)
        root = facts.parameters - facts.layers * facts.layer_parameters
        first = root * number
    parameters = (each * micro_batches + first) / _rate(device, layout, layout.shards or 1)
    host = 0.0
    if levers.offload:
        host = 2 * tokens * facts.hidden * PRECISIONS[precision].residual * facts.layers / device.host
    update = 28 * facts.trained / (layout.shards or 1) / device.bandwidth
    if workload.optimizer_states == "host" or layout.parameters_on_host:
        update = 8 * facts.trained / (layout.shards or 1) / device.host
    return StepTime(
        compute=compute * micro_batches,
        recomputation=recomputation * micro_batches,
        exchange=exchange * micro_batches,
        waiting_for_parameters=max(0.0, parameters - compute * micro_batches),
        waiting_for_host=max(0.0, host - compute) * micro_batches,
        optimizer=update,
        moved=(exchanged + each) * micro_batches + first,
        flops=flops.step(tokens, pairs) * micro_batches,
    )


def _rate(device: Device, layout: Layout, ranks: int) -> float:
    """Bytes/s into a rank of a group of neighbours."""
    if ranks <= layout.devices:
        return device.link * WIRE
    # each node takes in what its devices need once, by all its cards, and passes it on inside
    return min(device.link, device.network * layout.devices) * WIRE
