"""Which levers a run needs: the first rung of a ladder whose predicted memory fits the device.

The rungs go from the cheapest to the one that needs least memory, each with everything of the one before it:

1. nothing;
2. ``selective`` checkpointing: the layers' matrices once more;
3. tiles: the same work in smaller pieces;
4. offload (GPU): layer inputs travel while the GPU computes;
5. ``full`` checkpointing: attention once more, which is most of the work at great length.

Memory of each rung grows with the length, so a longer sequence never ends on an earlier rung. A setting of the user's
holds on every rung.
"""

from dataclasses import dataclass, replace
from typing import Any

from lit_long.errors import UserError
from lit_long.model.levers import Levers, tiled_parts
from lit_long.model.memory import RESERVE, MemoryEstimate, ModelFacts, RunFacts, estimate

TILE = 4096  # tokens; enough for matrix products to run at full speed


@dataclass(frozen=True)
class Choice:
    """Levers with nothing ``auto``, what they are predicted to need, and why they were chosen, a line each."""

    levers: Levers
    memory: MemoryEstimate
    reasons: tuple[str, ...]


def choose_levers(model: ModelFacts, run: RunFacts, asked: Levers | None = None) -> Choice:
    """Decide what is ``auto``.

    Args:
        model: the model's facts.
        run: length, micro-batch, memory and precision of the run, for its longest stage.
        asked: the user's settings; default: everything ``auto``.

    Returns:
        The choice. Where even the last rung does not fit, that one, with a reason that says so.
    """
    asked = asked if asked is not None else Levers()
    budget = int(run.memory * RESERVE)
    rungs = [levers for levers in (_pinned(asked, rung) for rung in _ladder(run)) if levers is not None]
    rungs = list(dict.fromkeys(rungs))
    reasons = []
    head = f"{run.micro_batch} x {run.sequence_length:,} tokens in {run.precision}"
    for levers in rungs:
        memory = estimate(model, run, levers)
        if memory.total <= budget or levers == rungs[-1]:
            break
        reasons.append(f"not enough: {levers}: {memory}")
    fits = "fits" if memory.total <= budget else "may not fit"
    reasons.append(f"levers: {levers}: {memory}; {fits} {budget / 1e9:.2f} GB for {head}")
    if memory.total > budget:
        reasons.append("shorten data.sequence_length or micro_batch, train adapters (lora), or set optimizer.states")
    return Choice(levers, memory, tuple(reasons))


def decide_levers(model: Any, asked: Levers, run: RunFacts | None) -> tuple[Levers, tuple[str, ...]]:
    """:func:`choose_levers` for a model that is there, and the reasons; where it cannot be told, ``auto`` is off."""
    if not asked.open:
        return asked, ()
    unknown = "how long its sequences are is not known here" if run is None else None
    try:
        facts = ModelFacts.of(model)
    except UserError as error:
        unknown = str(error)
    if unknown is not None or run is None:
        return asked.closed(), (f"levers: auto is off, because {unknown}",)
    choice = choose_levers(facts, run, asked)
    if asked.tile_size == "auto" and choice.levers.tile_size:
        try:
            tiled_parts(model, choice.levers)
        except UserError as error:  # dropout in adapters, say: nobody asked for tiles
            choice = choose_levers(facts, run, replace(asked, tile_size=0))
            return choice.levers, (f"no tiles: {error}", *choice.reasons)
    return choice.levers, choice.reasons


def _ladder(run: RunFacts) -> list[Levers]:
    tile = TILE if run.tokens > TILE else 0
    nothing = Levers(checkpointing="none", offload=False, tile_size=0)
    selective = replace(nothing, checkpointing="selective")
    tiles = replace(selective, tile_size=tile)
    offload = replace(tiles, offload=run.device_type == "cuda")
    return [nothing, selective, tiles, offload, replace(offload, checkpointing="full")]


def _pinned(asked: Levers, rung: Levers) -> Levers | None:
    """A rung with the user's settings; None where they do not allow it."""
    fixed: dict[str, Any] = {"compile": asked.compile, "checkpoint_every": asked.checkpoint_every}
    fixed |= {
        name: getattr(asked, name) for name in ("checkpointing", "offload", "tile_size") if name not in asked.open
    }
    values = {name: getattr(rung, name) for name in ("checkpointing", "offload", "tile_size")} | fixed
    if values["checkpointing"] == "none":
        if asked.offload is True or asked.checkpoint_every > 1:
            return None
        values["offload"] = False
    return Levers(**values)
