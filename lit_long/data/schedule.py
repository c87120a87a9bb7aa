"""The length schedule: which sequence length each optimizer step trains on, at a constant number of tokens per step.

A curriculum such as "4,096 tokens until 40 % of the run, then 32,768" (Llama 2 Long, section 4.4) is a list of stages.
A shorter stage has more sequences per step, never fewer tokens, so learning-rate schedule and data order do not change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_long.errors import UserError

_FOREVER = 1 << 62


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the run at one sequence length.

    Args:
        sequence_length: tokens per sequence.
        until: the stage ends at this share of the run's optimizer steps (0.4 = 40 %); none for the last stage.
        micro_batch: sequences that a device takes at once; default: as many as hold the tokens of ``micro_batch``
            sequences of the longest stage, so that memory and gradient accumulation stay about the same.
    """

    sequence_length: int
    until: float | None = None
    micro_batch: int | None = None


@dataclass(frozen=True)
class StageSpan:
    """A stage with its place in a run: optimizer steps ``first_step`` to ``stop_step - 1`` (0-based)."""

    index: int
    first_step: int
    stop_step: int
    sequence_length: int
    micro_batch: int
    sequences_per_step: int


@dataclass(frozen=True)
class LengthSchedule:
    """Stages of growing (or any) sequence length within one run.

    Args:
        stages: the stages in order; all but the last say ``until`` when.

    Raises:
        UserError: no stage, shares that do not grow, or lengths of which the longest is no multiple.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise UserError("schedule.stages is empty; give at least one stage with a sequence_length")
        before = 0.0
        for number, stage in enumerate(self.stages, 1):
            where, last = f"schedule stage {number}", number == len(self.stages)
            if stage.sequence_length < 2:
                raise UserError(f"{where}: sequence_length is {stage.sequence_length}; it must be at least 2 tokens")
            if self.longest % stage.sequence_length:
                raise UserError(
                    f"{where}: sequence_length is {stage.sequence_length}; the longest stage's {self.longest} must be "
                    f"a multiple of it, so that every stage reads the same tokens"
                )
            if stage.micro_batch is not None and stage.micro_batch < 1:
                raise UserError(f"{where}: micro_batch is {stage.micro_batch}; it must be at least 1")
            if last and stage.until not in (None, 1.0):
                raise UserError(f"{where}: the last stage goes to the end of the run; leave out until: {stage.until}")
            if not last:
                if stage.until is None or not before < stage.until < 1:
                    raise UserError(
                        f"{where}: until is {stage.until}; it must be a share of the run above {before:g} and below 1 "
                        f"(0.4 = 40 % of the steps)"
                    )
                before = stage.until

    @property
    def longest(self) -> int:
        """The longest stage's sequence length."""
        return max(stage.sequence_length for stage in self.stages)

    def spans(self, *, steps: int, tokens_per_step: int, micro_batch: int = 1) -> tuple[StageSpan, ...]:
        """The stages of a run of ``steps`` optimizer steps.

        Args:
            steps: optimizer steps of the run, or -1 where it has no end (one stage only).
            tokens_per_step: tokens per optimizer step over all devices and micro-batches.
            micro_batch: sequences of the longest stage that a device takes at once.

        Raises:
            UserError: tokens_per_step is no multiple of the longest sequence, or a stage has no step.
        """
        longest = self.longest
        if tokens_per_step < longest or tokens_per_step % longest:
            below = tokens_per_step // longest * longest
            fitting = f"{below} or {below + longest}" if below > 0 else str(longest)
            raise UserError(
                f"tokens_per_step is {tokens_per_step}, not a multiple of sequence_length {longest}; take {fitting}"
            )
        if steps < 1 and len(self.stages) > 1:
            raise UserError("trainer.max_steps is not set; the stages of a schedule are shares of it")
        spans: list[StageSpan] = []
        first = 0
        for index, stage in enumerate(self.stages):
            last = index == len(self.stages) - 1
            stop = (steps if steps > 0 else _FOREVER) if last else round(float(stage.until or 0) * steps)
            if stop <= first:
                raise UserError(
                    f"schedule stage {index + 1} (sequence_length {stage.sequence_length}) has no step: the run has "
                    f"{steps} steps and the stage would go from {first} to {stop}; train longer or drop the stage"
                )
            spans.append(
                StageSpan(
                    index=index,
                    first_step=first,
                    stop_step=stop,
                    sequence_length=stage.sequence_length,
                    micro_batch=stage.micro_batch or micro_batch * longest // stage.sequence_length,
                    sequences_per_step=tokens_per_step // stage.sequence_length,
                )
            )
            first = stop
        return tuple(spans)


def stage_at(spans: Sequence[StageSpan], step: int) -> StageSpan:
    """The stage that optimizer step ``step`` (0-based) belongs to; steps beyond the end belong to the last."""
    return next((span for span in spans if step < span.stop_step), spans[-1])
