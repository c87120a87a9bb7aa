"""What a fetched model can do with length, read from its files alone; and how to run it."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_long_hub.adapter_card import adapter_snippet
from lit_long_hub.proof_kinds import LOGITS


@dataclass(frozen=True)
class ContextFacts:
    """Facts of a model folder; None where the folder does not say."""

    model_type: str
    context_length: int | None
    """``max_position_embeddings``."""

    native_length: int | None
    """Of the base model, where lit-long extended it."""

    rope: dict[str, Any]
    """``rope_parameters`` (or transformers 4's two keys)."""

    dtype: str | None
    base_model: str | None
    proved: bool | None
    """Whether verification.json says that it was compared with the training model; None without that file."""

    own_code: list[str]
    """Python files the model needs (``auto_map``); empty for stock models."""

    adapter_of: str | None = None
    """Of an adapter, the Hub id of its base model."""

    adapter_revision: str | None = None

    proof_kind: str = LOGITS
    """What was compared: ``logits``, or ``weights`` where the model was converted while it was published."""


def context_facts(folder: Path) -> ContextFacts | None:
    """The facts of a model folder; None if there is no config.json.

    Args:
        folder: The folder.
    """
    config = _read(folder / "config.json")
    if config is None:
        return None
    record, verification = _read(folder / "lit_long.json") or {}, _read(folder / "verification.json")
    rope = config.get("rope_parameters") or {
        "rope_theta": config.get("rope_theta", 10_000.0),
        **(config.get("rope_scaling") or {"rope_type": "default"}),
    }
    adapter = _read(folder / "adapter_config.json") or {}
    codes = {str(value).split(".")[0] + ".py" for value in (config.get("auto_map") or {}).values()}
    return ContextFacts(
        model_type=str(config.get("model_type")),
        context_length=config.get("max_position_embeddings"),
        native_length=(record.get("rope") or {}).get("native_length"),
        rope=rope,
        dtype=config.get("dtype") or config.get("torch_dtype"),
        base_model=record.get("base_model"),
        proved=None if verification is None else verification.get("passed") is True,
        own_code=sorted(codes),
        adapter_of=adapter.get("base_model_name_or_path"),
        adapter_revision=adapter.get("revision"),
        proof_kind=str((verification or {}).get("kind", LOGITS)),
    )


def facts_text(folder: Path, facts: ContextFacts) -> str:
    """The facts for a terminal, with commands that run the model.

    Args:
        folder: The folder.
        facts: What ``context_facts`` found.
    """
    length = f"{facts.context_length:,} tokens" if facts.context_length else "not stated"
    if facts.native_length and facts.native_length != facts.context_length:
        length += f" (its base model: {facts.native_length:,})"
    rope = ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in _short(facts.rope)
    )
    compared = "compared" if facts.proof_kind == LOGITS else "weights, positions and tokenizer (no logits) compared"
    proof = {True: f"{compared} with the training model by its publisher", False: "FAILED its proof", None: "none"}
    lines = [
        f"  context     {length}",
        f"  positions   {rope}",
        f"  model       {'adapter of ' + facts.adapter_of + ', ' if facts.adapter_of else ''}{facts.model_type}, "
        + (facts.dtype or "dtype not stated")
        + (f", from {facts.base_model}" if facts.base_model else ""),
        f"  proof       {proof[facts.proved]}",
    ]
    if facts.own_code:
        lines.append(
            f"  own code    {', '.join(facts.own_code)}: read it before you load it with trust_remote_code=True"
        )
    lines += ["", "Run it:"]
    if facts.adapter_of is not None:
        return "\n".join([*lines, *adapter_snippet(str(folder), facts.adapter_of, facts.adapter_revision).split("\n")])
    quoted = shlex.quote(str(folder))
    lines.append(f"  lit-long evaluate {quoted} --corpus CORPUS --output runs/report")
    if not facts.own_code:
        lines.append(
            f"  vllm serve {quoted}" + (f" --max-model-len {facts.context_length}" if facts.context_length else "")
        )
    lines.append(f'  AutoModelForCausalLM.from_pretrained({json.dumps(str(folder))}, dtype="auto")')
    return "\n".join(lines)


def _short(rope: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in sorted(rope.items()) if not isinstance(value, (list, dict))]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
