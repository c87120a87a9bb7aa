"""What the card of an adapter says about loading it: with its own config, or it is another model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter belongs to."""

    revision: str
    """Commit of the base model."""

    whole: Sequence[str]
    """Tensors of the model that were trained whole, beside the low-rank ones."""


def adapter_snippet(folder: str, base: str, revision: str | None, *, comment: str = "") -> str:
    """Python that loads an adapter on its base model with the adapter's positions."""
    commit = f", revision={json.dumps(revision)}" if revision else ""
    return f"""from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

name, base = {json.dumps(folder)}, {json.dumps(base)}{comment}
config = AutoConfig.from_pretrained(name)  # the positions: without it the base model's own are taken
model = AutoModelForCausalLM.from_pretrained(base{commit}, config=config, dtype="auto")
model = PeftModel.from_pretrained(model, name)
tokenizer = AutoTokenizer.from_pretrained(name)"""


def adapter_usage(base: str, facts: AdapterFacts, verification: Mapping[str, Any] | None) -> str:
    """The section "Use" of an adapter's card.

    Args:
        base: Hub id of the base model.
        facts: What the adapter belongs to.
        verification: The content of verification.json, None where the proof was left out.
    """
    snippet = adapter_snippet(".", base, facts.revision, comment="  # this folder, or the id of its repository")
    lines = [
        "## Use",
        "",
        f"```python\n{snippet}\n```",
        "",
        "**Load the base model with this folder's config, as above.** An adapter file cannot hold positions: "
        "`PeftModel.from_pretrained` on the plain base model, `AutoPeftModelForCausalLM`, and engines that load "
        "adapters at run time (vLLM's `--enable-lora` among them) take the base model's positions, and answer without "
        "an error.",
    ]
    if verification is not None and (naive := verification["adapter"]["without_config"]):
        worst = max(naive, key=lambda prompt: prompt["relative_difference"] or 0.0)
        lines.append(
            f"Loaded that way, logits were off by up to {worst['relative_difference'] or float('nan'):.2g} of the "
            f"largest (positions {worst['first_position']:,} to {worst['last_position']:,})."
        )
    if facts.whole:
        lines += [
            "",
            f"{len(facts.whole)} tensors were trained whole (embeddings or norms) and are in the adapter file under "
            "their own names; peft loads them, engines that expect low-rank matrices alone do not.",
        ]
    lines += ["", "To serve it, merge it first: `model.merge_and_unload().save_pretrained(FOLDER)`."]
    return "\n".join(lines)
