"""A plan for people (Markdown, PNG) and for machines (JSON)."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_long.model.memory import RESERVE
from lit_long.planner.plan import Plan, StagePlan
from lit_long.planner.speed import WIRE
from lit_long.planner.timeline import KINDS

SCHEMA = "lit-long/plan/1"
TOKEN_BYTES = 4  # of a corpus of lit-long prepare, at most


def to_json(plan: Plan, *, price: float | None = None) -> dict[str, Any]:
    """Plain values of everything planned; bytes, seconds and FLOPs."""
    return {
        "schema": SCHEMA,
        "model": plan.workload.name,
        "parameters": plan.workload.facts.parameters,
        "trained": plan.workload.facts.trained,
        "device": asdict(plan.device),
        "layout": asdict(plan.layout) | {"ranks": plan.layout.ranks, "data": plan.layout.data},
        "levers": asdict(plan.levers),
        "fits": plan.fits,
        "budget_bytes": plan.budget,
        "peak_bytes": plan.highest.peak.total,
        "peak_where": plan.highest.peak.where,
        "stages": [_stage(stage) for stage in plan.stages],
        "run": _run(plan, price),
    }


def _stage(stage: StagePlan) -> dict[str, Any]:
    return {
        "sequence_length": stage.span.sequence_length,
        "first_step": stage.span.first_step,
        "stop_step": stage.span.stop_step,
        "micro_batch": stage.span.micro_batch,
        "micro_batches": stage.micro_batches,
        "terms": asdict(stage.memory),
        "peak": {"where": stage.peak.where, **dict(zip(KINDS, stage.peak.bytes, strict=True))},
        "moments": [{"where": m.where, **dict(zip(KINDS, m.bytes, strict=True))} for m in stage.moments],
        "time": None if stage.time is None else asdict(stage.time) | {"total": stage.time.total},
    }


def _run(plan: Plan, price: float | None) -> dict[str, Any]:
    seconds = plan.seconds
    hours = None if seconds is None else seconds / 3600 * plan.layout.ranks
    training, export = plan.checkpoint_bytes
    return {
        "steps": plan.workload.steps,
        "tokens": plan.tokens,
        "corpus_bytes": plan.tokens * TOKEN_BYTES,
        "checkpoint_bytes": training,
        "export_bytes": export,
        "seconds": seconds,
        "gpu_hours": hours,
        "cost": None if hours is None or price is None else hours * price,
        "tokens_per_second_per_device": None if not seconds else plan.tokens / seconds / plan.layout.ranks,
        "mfu": plan.mfu,
    }


def to_markdown(plan: Plan, *, price: float | None = None) -> str:
    """What a person reads."""
    facts, device = plan.workload.facts, plan.device
    top = plan.highest
    lines = [
        f"# Plan: {plan.workload.name} on {plan.layout.ranks} x {device.name}",
        "",
        f"{_count(facts.parameters)} parameters, {_count(facts.trained)} trained; {plan.layout}; levers: "
        f"{plan.levers}.",
        "",
        f"**{'Fits' if plan.fits else 'Does not fit'}**: {_gb(top.peak.total)} at the highest point ({top.peak.where}, "
        f"sequence length {top.span.sequence_length:,}), {_gb(plan.budget)} planned with ({RESERVE:.0%} of "
        f"{_gb(device.memory)}).",
        "",
        "| memory of a device | at the highest point |",
        "|---|---:|",
        *(f"| {kind} | {_gb(value)} |" for kind, value in zip(KINDS, top.peak.bytes, strict=True)),
        f"| **sum** | **{_gb(top.peak.total)}** |",
        f"| in CPU memory, a device | {_gb(top.memory.host)} |",
        "",
        "| sequence length | steps | micro-batches | highest | step | tokens/s a device | compute | of it again | "
        "exchange | parameters | host | optimizer |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(plan, stage) for stage in plan.stages),
    ]
    run = _run(plan, price)
    lines += ["", f"{run['steps']:,} steps, {_count(run['tokens'])} tokens"]
    if run["seconds"] is not None:
        lines[-1] += f": {_time(run['seconds'])}, {run['gpu_hours']:,.0f} device hours"
        lines[-1] += "" if run["cost"] is None else f", {run['cost']:,.0f} at {price:g} an hour"
        lines[-1] += f"; MFU {run['mfu']:.1%}"
    lines[-1] += (
        f". Corpus: up to {_gb(run['corpus_bytes'])}. A checkpoint: {_gb(run['checkpoint_bytes'])}, an export: "
        f"{_gb(run['export_bytes'])}."
    )
    lines += [
        "",
        "Not counted: the CUDA context and fragments (what the reserve is for), validation, checkpoints, failures. "
        f"Figures of {device.name}: {device.source}. Efficiencies, matrices {device.matmul:.0%} and attention "
        f"{device.attention:.0%} of the peak: {device.efficiency}. Links at {WIRE:.0%} of the data sheet. Rows are "
        "taken as one document each, which costs most, unless --document-length says otherwise.",
    ]
    return "\n".join(lines)


def _row(plan: Plan, stage: StagePlan) -> str:
    time, span = stage.time, stage.span
    cells = [f"{span.sequence_length:,}", f"{span.stop_step - span.first_step:,}", f"{stage.micro_batches:,}"]
    cells.append(_gb(stage.peak.total))
    if time is None:
        return f"| {' | '.join([*cells, *[''] * 8])} |"
    rate = plan.workload.tokens_per_step / time.total / plan.layout.ranks
    cells += [f"{time.total:,.3g} s", f"{rate:,.0f}"]
    parts = (
        time.compute, time.recomputation, time.exchange, time.waiting_for_parameters, time.waiting_for_host,
        time.optimizer,
    )  # fmt: skip
    return f"| {' | '.join([*cells, *(f'{value:,.3g} s' for value in parts)])} |"


def write_plan(plan: Plan, folder: Path, *, price: float | None = None) -> list[Path]:
    """Write ``plan.json``, ``plan.md`` and ``plan.png``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"plan.{ending}" for ending in ("json", "md", "png")]
    files[0].write_text(json.dumps(to_json(plan, price=price), indent=1) + "\n", encoding="utf-8")
    files[1].write_text(to_markdown(plan, price=price) + "\n", encoding="utf-8")
    _plot(plan, files[2])
    return files


def _plot(plan: Plan, path: Path) -> None:
    """Memory over a step of the stage that needs most, stacked by kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stage = plan.highest
    figure = Figure(figsize=(9, 4.8), layout="constrained")
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    heights = [[moment.bytes[kind] / 1e9 for moment in stage.moments] for kind in range(len(KINDS))]
    axes.stackplot(range(len(stage.moments)), heights, labels=KINDS, alpha=0.85)
    axes.axhline(plan.device.memory / 1e9, color="black", linewidth=1, label=f"memory of {plan.device.name}")
    axes.axhline(plan.budget / 1e9, color="black", linestyle="--", linewidth=1, label=f"{RESERVE:.0%} of it")
    names = [moment.where for moment in stage.moments]
    marks = [0, names.index("loss"), len(names) - 1, stage.moments.index(stage.peak)]
    axes.set_xticks(sorted(set(marks)), [names[i] for i in sorted(set(marks))], rotation=15, fontsize=8)
    axes.set_ylabel("GB")
    axes.set_title(
        f"One step at {stage.span.sequence_length:,} tokens: {plan.workload.name}, {plan.layout}", fontsize=10
    )
    axes.set_xlim(0, len(names) - 1)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def _count(value: float) -> str:
    return f"{value / 1e9:,.3g} B" if value >= 1e9 else f"{value / 1e6:,.3g} M"


def _gb(value: float) -> str:
    return f"{value / 1e9:,.2f} GB"


def _time(seconds: float) -> str:
    hours = seconds / 3600
    return (
        f"{hours / 24:,.1f} days" if hours > 48 else f"{hours:,.1f} hours" if hours > 1 else f"{seconds / 60:,.1f} min"
    )
