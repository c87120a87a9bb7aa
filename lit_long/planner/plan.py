"""A plan: each stage's memory, time and work on one device of a layout, and what the whole run comes to."""

from dataclasses import dataclass, replace

from lit_long.data.plan import accumulation
from lit_long.data.schedule import StageSpan
from lit_long.hardware import Device
from lit_long.model.choose import choose_levers
from lit_long.model.levers import Levers
from lit_long.model.memory import RESERVE, MemoryEstimate, RunFacts, estimate
from lit_long.planner.layout import Layout
from lit_long.planner.speed import StepTime, step_time
from lit_long.planner.timeline import Moment, highest, timeline
from lit_long.planner.workload import Workload


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage of sequence length.

    Attributes:
        span: its place in the run.
        micro_batches: of a rank in a step.
        run: what memory was estimated for.
        memory: bytes by term.
        moments: memory over a step.
        time: of a step; None on a device of unknown speed.
    """

    span: StageSpan
    micro_batches: int
    run: RunFacts
    memory: MemoryEstimate
    moments: list[Moment]
    time: StepTime | None

    @property
    def peak(self) -> Moment:
        """The highest moment."""
        return highest(self.moments)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a recipe needs on a layout of devices.

    Attributes:
        workload: the recipe.
        layout: ranks.
        device: each of them.
        levers: chosen as ``fit`` chooses them, for the stage that needs most.
        stages: in order.
    """

    workload: Workload
    layout: Layout
    device: Device
    levers: Levers
    stages: list[StagePlan]

    @property
    def highest(self) -> StagePlan:
        """The stage that needs most memory."""
        return max(self.stages, key=lambda stage: stage.peak.total)

    @property
    def budget(self) -> int:
        """Bytes of a device that are planned with."""
        return int(self.device.memory * RESERVE)

    @property
    def fits(self) -> bool:
        """Whether the highest moment is within the budget."""
        return self.highest.peak.total <= self.budget

    @property
    def seconds(self) -> float | None:
        """Of all steps; None where the device's speed is not known."""
        times = [(stage.span.stop_step - stage.span.first_step, stage.time) for stage in self.stages]
        if any(time is None for _, time in times):
            return None
        return sum(steps * time.total for steps, time in times if time is not None)

    @property
    def tokens(self) -> int:
        """Of all steps."""
        return self.workload.steps * self.workload.tokens_per_step

    @property
    def mfu(self) -> float | None:
        """Model FLOPs as a share of the bfloat16 peak, over the whole run."""
        seconds = self.seconds
        if not seconds:
            return None
        work = sum((s.span.stop_step - s.span.first_step) * s.time.flops for s in self.stages if s.time is not None)
        return work / seconds / self.device.bf16

    @property
    def checkpoint_bytes(self) -> tuple[int, int]:
        """Of one training checkpoint (trained weights and moments in float32), and of an export in bfloat16."""
        facts = self.workload.facts
        return 12 * facts.trained, 2 * facts.parameters


def make_plan(
    workload: Workload,
    layout: Layout,
    device: Device,
    *,
    levers: Levers | None = None,
    document_length: int | None = None,
    timed: bool = True,
) -> Plan:
    """Plan a recipe.

    Args:
        workload: the recipe.
        layout: of ranks.
        device: each of them.
        levers: instead of the recipe's.
        document_length: see :func:`lit_long.planner.speed.step_time`.
        timed: whether the device's speed is known.

    Raises:
        UserError: the sequences of a step cannot be divided among the data-parallel ranks.
    """
    precision = "bf16-gathered" if layout.sharded and layout.bfloat16 else workload.precision
    cpu = device.name == "cpu"

    def facts_of(span: StageSpan) -> tuple[RunFacts, int]:
        count = accumulation(span, layout.data)
        run = RunFacts(
            sequence_length=-(-span.sequence_length // layout.context),
            micro_batch=span.micro_batch,
            memory=int(device.memory),
            device_type="cpu" if cpu else "cuda",
            precision=precision,
            optimizer_states=workload.optimizer_states,
            loss_chunk_size=workload.loss_chunk_size,
            shards=layout.shards,
            context=layout.context,
            accumulates=count > 1,
            resharded=layout.resharded,
            parameters_on_host=layout.parameters_on_host,
        )
        return run, count

    asked = levers if levers is not None else workload.levers
    chosen = choose_levers(workload.facts, facts_of(workload.longest)[0], asked).levers
    stages = []
    for span in workload.spans:
        run, count = facts_of(span)
        memory = estimate(workload.facts, run, chosen)
        time = None
        if timed:
            time = step_time(
                workload,
                layout,
                device,
                chosen,
                sequence_length=span.sequence_length,
                micro_batch=span.micro_batch,
                micro_batches=count,
                precision=precision,
                document_length=document_length,
            )
        stages.append(
            StagePlan(
                span=span,
                micro_batches=count,
                run=run,
                memory=memory,
                moments=timeline(memory, workload.facts.layers),
                time=time,
            )
        )
    return Plan(workload=workload, layout=layout, device=device, levers=chosen, stages=stages)


def at_length(workload: Workload, length: int, rows: int) -> Workload:
    """The workload with one stage of ``rows`` sequences of ``length`` a step, one at a time."""
    span = StageSpan(
        index=0,
        first_step=0,
        stop_step=workload.steps,
        sequence_length=length,
        micro_batch=1,
        sequences_per_step=rows,
    )
    return replace(workload, spans=(span,), tokens_per_step=length * rows)
