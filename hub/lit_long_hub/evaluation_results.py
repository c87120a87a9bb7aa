"""The measured numbers of one model in ``lit-long evaluate``'s report.json, as the Hub's model-index wants them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_long_hub.privacy import is_local, public_source


@dataclass(frozen=True)
class EvaluationResults:
    """Measured numbers; empty where the report has none of this model."""

    index: list[dict[str, Any]] = field(default_factory=list)
    """``results`` of the model-index: one for every range of positions and for every context length."""

    longest: int | None = None
    """Longest length, in tokens, at which the model was evaluated."""

    short: Mapping[str, Any] | None = None
    """Loss within the native length against another model of the report (``name``, ``mean``, ``low``, ``high``)."""


def read_results(report: Path, checkpoint: Path) -> EvaluationResults:
    """The results of the model that is being exported.

    Args:
        report: ``report.md``; report.json is looked for beside it.
        checkpoint: The checkpoint that is exported: the report must have evaluated exactly this file, or only one
            model at all.
    """
    path = report.with_name("report.json")
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return EvaluationResults()
    models = content.get("models") or []
    own = [model for model in models if Path(str(model.get("path"))).resolve() == checkpoint.resolve()]
    if not own and len(models) == 1:
        own = models
    if not own:
        return EvaluationResults()
    corpus = (content.get("corpus") or {}).get("name")
    if not isinstance(corpus, str) or is_local(corpus):
        corpus = "held-out documents"
    data = {"name": corpus, "type": public_source(corpus) or "text"}
    return EvaluationResults(
        index=[*_by_position(own[0], data), *_by_context(own[0], data)],
        longest=(content.get("windows") or {}).get("length"),
        short=_short(content.get("paired") or [], str(own[0].get("name"))),
    )


def _by_position(model: Mapping[str, Any], data: Mapping[str, str]) -> list[dict[str, Any]]:
    buckets = (model.get("loss_by_position") or {}).get("buckets") or []
    return [
        _result(data, f"positions {b['first']} to {b['last']}", "Loss (nats per token)", b["loss"]["mean"])
        for b in buckets
    ]


def _by_context(model: Mapping[str, Any], data: Mapping[str, str]) -> list[dict[str, Any]]:
    gain = model.get("context_gain") or {}
    name = f"Loss (nats per token) on the same last {gain.get('target_tokens')} tokens"
    return [_result(data, f"context {c['context']}", name, c["loss"]["mean"]) for c in gain.get("contexts") or []]


def _result(data: Mapping[str, str], config: str, name: str, value: float) -> dict[str, Any]:
    return {
        "task": {"type": "text-generation"},
        # The Hub groups results by dataset, config and split, so the length must be there, and as text.
        "dataset": {**data, "config": config, "split": "held_out"},
        "metrics": [{"type": "loss", "name": name, "value": round(float(value), 5)}],
    }


def _short(paired: list[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """The comparison in which this model is second, with the first named."""
    for pair in paired:
        if pair.get("second") == name and pair.get("within_native"):
            return {"name": pair["first"], **pair["within_native"]}
    return None
