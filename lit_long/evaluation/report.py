"""Reports of an evaluation: ``report.json`` holds every number, ``report.md`` the tables a person reads.

Both are written from the same :class:`lit_long.evaluation.battery.Evaluation`; Markdown columns are padded, so the text
also reads well in a terminal.
"""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from lit_long.evaluation.battery import Evaluation, ModelResult
from lit_long.evaluation.intervals import Estimate
from lit_long.evaluation.position_loss import Bucket, change_beyond, paired_difference, window_means
from lit_long.evaluation.power_law_report import markdown, plain, power_laws
from lit_long.evaluation.verdict import signed, verdict

SCHEMA = "lit-long/evaluation/1"


def write_report(evaluation: Evaluation, output: Path) -> tuple[dict[str, Any], list[Path]]:
    """Write ``report.json`` and ``report.md`` to ``output``; return the JSON content and the two paths."""
    output.mkdir(parents=True, exist_ok=True)
    content = to_json(evaluation)
    files = [output / "report.json", output / "report.md"]
    files[0].write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files[1].write_text(to_markdown(evaluation), encoding="utf-8")
    return content, files


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Plain values of everything measured; losses in nats per token, intervals 95 %, positions counted from 1."""
    return {
        "schema": SCHEMA,
        "corpus": evaluation.corpus,
        "windows": evaluation.windows.summary(),
        "native_length": evaluation.native_length,
        "models": [_model(model) for model in evaluation.models],
        "paired": [_paired(first, second) for first, second in combinations(evaluation.models, 2)],
        "power_law": {name: plain(fit) for name, fit in power_laws(evaluation).items()},
        "verdict": verdict(evaluation),
    }


def to_markdown(evaluation: Evaluation) -> str:
    """The tables and the verdict as a Markdown page."""
    windows, models = evaluation.windows, evaluation.models
    fewer = f" ({windows.asked} asked for; no more fit without overlap)" if windows.asked > windows.ids.shape[0] else ""
    if windows.clustered_by == "document":
        basis = f"over the {windows.used_documents} documents"
    else:
        basis = "over the windows, because there are fewer than five documents: it speaks for these documents only"
    lines = [
        "# Loss by position",
        "",
        f"{windows.ids.shape[0]} windows of {windows.length:,} tokens{fewer} from {windows.used_documents} document(s) "
        f"of '{windows.corpus}'; {windows.short_documents} shorter document(s) skipped; seed {windows.seed}. Native "
        f"length {evaluation.native_length:,}. Nats per token, mean ± 95 % interval {basis}. A position is the number "
        "of tokens that the prediction can see.",
        "",
        *_table(["positions", *(model.name for model in models)], _position_rows(models)),
    ]
    means = [window_means(model.position) for model in models]
    rows = [[f"{c:,}", *(_level(each[i][1]) for each in means)] for i, (c, _) in enumerate(means[0])]
    lines += ["", "## Mean loss of the first so many tokens", ""]
    lines += _table(["tokens", *(model.name for model in models)], rows)
    if len(models) > 1:
        pairs = [(a, b, paired_difference(a.position, b.position)) for a, b in combinations(models, 2)]
        rows = [
            [f"{b.name} - {a.name}", *(signed(e) if e else "-" for e in (d.overall, d.within_native, d.beyond_native))]
            for a, b, d in pairs
        ]
        lines += ["", "## Differences on the same tokens", ""]
        lines += _table(["loss", "overall", "within native", "beyond native"], rows)
    if any(model.context for model in models):
        lines += ["", "## Same last tokens, longer contexts", "", *_context_section(models)]
    if fits := power_laws(evaluation):
        lines += ["", "## Power law of context", "", *markdown(fits)]
    lines += ["", "## What this says", "", *(f"- {sentence}" for sentence in verdict(evaluation)), ""]
    return "\n".join(lines)


def _position_rows(models: Sequence[ModelResult]) -> list[list[str]]:
    first = models[0].position
    rows = [
        [f"{bucket.first:,}-{bucket.last:,}", *(_level(model.position.buckets[i].loss) for model in models)]
        for i, bucket in enumerate(first.buckets)
    ]
    rows.append(["within native", *(_level(model.position.within_native.loss) for model in models)])
    if first.beyond_native:
        beyond = [model.position.beyond_native for model in models]
        rows.append(["beyond native", *(_level(bucket.loss) for bucket in beyond if bucket)])
    rows.append(["all", *(_level(model.position.overall) for model in models)])
    return rows


def _context_section(models: Sequence[ModelResult]) -> list[str]:
    contexts = [(model.name, model.context) for model in models if model.context]
    plan = contexts[0][1].plan
    header = ["tokens of context", *(name for name, _ in contexts), *(f"gain, {name}" for name, _ in contexts)]
    rows = []
    for i, length in enumerate(plan.contexts):
        gains = ["-" if i == 0 else signed(context.gain[i]) for _, context in contexts]
        rows.append([f"{length:,}", *(_level(context.loss[i]) for _, context in contexts), *gains])
    if plan.kept is not None:
        shuffled = [_level(context.shuffled_loss) for _, context in contexts if context.shuffled_loss]
        rows.append([f"{plan.contexts[-1]:,}, foreign prefix", *shuffled, *("-" for _ in contexts)])
    rows.append(["full - best truncation", *(signed(c.full_minus_best) for _, c in contexts), *("-" for _ in contexts)])
    text = (
        f"Loss of the last {plan.target_tokens:,} tokens of each window, predicted from inputs that hold only the last "
        f"so many tokens. Gain: loss at {plan.contexts[0]:,} minus loss here, paired; above 0 the longer context helps."
    )
    if plan.kept is not None:
        text += f" Foreign prefix: all but the nearest {plan.kept:,} tokens come from another window."
    return [text, "", *_table(header, rows)]


def _level(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f}" + ("" if estimate.half_width is None else f" ± {estimate.half_width:.3f}")


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: list[str]) -> str:
        first, *others = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *others]) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(rule), *(line(row) for row in rows)]


def _estimate(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "clusters": estimate.clusters}


def _bucket(bucket: Bucket | None) -> dict[str, Any] | None:
    if bucket is None:
        return None
    return {"first": bucket.first, "last": bucket.last, "tokens": bucket.tokens, "loss": _estimate(bucket.loss)}


def _model(model: ModelResult) -> dict[str, Any]:
    position, context = model.position, model.context
    content: dict[str, Any] = {
        "name": model.name,
        "path": model.path,
        "source": model.source,
        "own_native_length": model.own_native_length,
        "window": model.window,
        "extrapolation": None if model.window is None else _estimate(change_beyond(position, model.window)),
        "loss_by_position": {
            "overall": _estimate(position.overall),
            "within_native": _bucket(position.within_native),
            "beyond_native": _bucket(position.beyond_native),
            "reference": _bucket(position.reference),
            "beyond_change": _estimate(position.beyond_change),
            "buckets": [_bucket(bucket) for bucket in position.buckets],
            "window_means": [{"tokens": c, "loss": _estimate(loss)} for c, loss in window_means(position)],
            "curve": {
                "position": position.curve.positions,
                "loss": position.curve.loss,
                "low": position.curve.low,
                "high": position.curve.high,
            },
        },
        "context_gain": None,
    }
    if context is not None:
        content["context_gain"] = {
            "target_tokens": context.plan.target_tokens,
            "contexts": [
                {"context": length, "loss": _estimate(loss), "gain": _estimate(gain)}
                for length, loss, gain in zip(context.plan.contexts, context.loss, context.gain, strict=True)
            ],
            "best_truncation": context.best_truncation,
            "full_minus_best": _estimate(context.full_minus_best),
            "beats_best_truncation": {-1: "yes", 1: "no", 0: "not shown"}[context.full_minus_best.direction],
            "foreign_prefix": {
                "kept": context.plan.kept,
                "loss": _estimate(context.shuffled_loss),
                "minus_full": _estimate(context.prefix_gain),
                "other_documents_only": context.foreign_documents,
            },
        }
    return content


def _paired(first: ModelResult, second: ModelResult) -> dict[str, Any]:
    difference = paired_difference(first.position, second.position)
    return {
        "first": first.name,
        "second": second.name,
        "overall": _estimate(difference.overall),
        "within_native": _estimate(difference.within_native),
        "beyond_native": _estimate(difference.beyond_native),
        "buckets": [_estimate(estimate) for estimate in difference.buckets],
    }
