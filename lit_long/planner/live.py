"""The plan of a run that is already built: seconds of a step, for the line that ``fit`` prints."""

from typing import Any

from lit_long.flops import model_flops
from lit_long.hardware import Device, known_devices
from lit_long.model.levers import Levers
from lit_long.model.memory import ModelFacts, RunFacts
from lit_long.planner.layout import Layout
from lit_long.planner.speed import step_time
from lit_long.planner.workload import Workload


def device_called(torch_name: str) -> Device | None:
    """The device of the table that PyTorch calls so; None where there is none."""
    return next((device for device in known_devices().values() if torch_name in device.torch), None)


def expected_seconds(
    model: Any,
    run: RunFacts,
    levers: Levers,
    device: Device,
    *,
    devices: int,
    nodes: int,
    micro_batches: int,
    document_length: int | None,
) -> float:
    """Seconds of an optimizer step of a built model.

    Args:
        model: a causal LM, sharded or not.
        run: as memory is estimated for; ``sequence_length`` is a rank's share.
        levers: those on the model.
        device: each of them.
        devices: on a node.
        nodes: of them.
        micro_batches: of a rank in a step.
        document_length: of documents that are all alike and have as many (query, key) pairs as the run's.

    Raises:
        UserError: attention whose FLOPs are not known.
    """
    workload = Workload(
        name="",
        model=model,
        facts=ModelFacts.of(model),
        flops=model_flops(model),
        spans=(),
        tokens_per_step=0,
        precision=run.precision,
        optimizer_states=run.optimizer_states,
        loss_chunk_size=run.loss_chunk_size,
        levers=levers,
    )
    ranks = devices * nodes
    layout = Layout(
        devices=devices,
        nodes=nodes,
        context=run.context,
        replicas=ranks // run.shards if run.shards else 1,
        sharded=run.shards is not None,
        bfloat16=run.precision == "bf16-gathered",
        resharded=run.resharded,
        parameters_on_host=run.parameters_on_host,
    )
    return step_time(
        workload,
        layout,
        device,
        levers,
        sequence_length=run.sequence_length * run.context,
        micro_batch=run.micro_batch,
        micro_batches=micro_batches,
        precision=run.precision,
        document_length=document_length,
    ).total
