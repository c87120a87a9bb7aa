"""A stage of a length schedule in one line."""

from collections.abc import Callable, Mapping
from typing import Any

from lit_long.data.schedule import StageSpan


def stage_line(
    span: StageSpan, *, stages: int, accumulation: int, rope: Callable[[int], Mapping[str, Any]] | None
) -> str:
    """For example ``stage 2 of 2: sequence length 32,768, RoPE base 10,000 -> 500,000, 128 sequences a step, ...``.

    Args:
        span: the stage.
        stages: number of stages of the run.
        accumulation: micro-batches of a device in each of its steps.
        rope: transformers' ``rope_parameters`` at an optimizer step, where the module knows them.
    """
    parts = [f"stage {span.index + 1} of {stages}: sequence length {span.sequence_length:,}"]
    if rope is not None:
        parts.append(_rope(rope(max(0, span.first_step - 1)), rope(span.first_step)))
    parts += [
        f"{span.sequences_per_step:,} sequences a step",
        f"micro-batch {span.micro_batch:,}",
        f"accumulation {accumulation:,}",
    ]
    return ", ".join(parts)


def _rope(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    base = f"RoPE base {after['rope_theta']:,.0f}"
    if changed == ["rope_theta"]:
        return f"RoPE base {before['rope_theta']:,.0f} -> {after['rope_theta']:,.0f}"
    if not changed:
        return base
    return ", ".join(f"RoPE {key} {before.get(key)} -> {after.get(key)}" for key in changed)
