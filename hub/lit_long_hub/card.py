"""Writes the README of a release from the facts of the run: front matter that the Hub accepts, and no placeholders.

A section whose facts are not there is left out. Local paths never get in: ``base_model`` is a Hub id or absent, and
data sources are named only where they are public.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from lit_long_hub.adapter_card import AdapterFacts, adapter_usage
from lit_long_hub.card_sections import data_mix, limits, stages, weights_verification
from lit_long_hub.evaluation_results import EvaluationResults
from lit_long_hub.privacy import is_local, public_source
from lit_long_hub.proof_kinds import WEIGHTS

_METHODS = {
    "xpos_abf": "xPos with an adjusted base frequency: as ABF, and attention scores decay with distance",
    "none": "rotary positions as the base model has them",
    "abf": "RoPE with an adjusted base frequency (ABF): the base is raised, so that distant tokens lose less attention",
    "linear": "position interpolation (PI): positions are divided by a factor",
    "ntk": "NTK-aware scaling: the base is raised by the factor that maps the slowest frequency to the new length",
    "yarn": "YaRN: slow frequencies interpolated, fast ones kept, attention rescaled",
    "llama3": "Llama 3.1 scaling: slow frequencies divided by a factor, fast ones kept, a ramp between",
}


@dataclass(frozen=True)
class CardFacts:
    """Everything a card is made from."""

    record: Mapping[str, Any]
    """The checkpoint's ``lit_long`` entry."""

    config: Mapping[str, Any]
    """The content of config.json."""

    base_model: str | None
    """Hub id of the base model, None where it is not public."""

    parameters: int
    """Elements of the weights."""

    licence: Mapping[str, str]
    """``license`` and, for ``other``, its name and link; may be empty."""

    verification: Mapping[str, Any] | None
    """The content of verification.json, None where the proof was left out."""

    evaluation: str | None
    """Markdown of the evaluation report, None where there is none."""

    results: EvaluationResults = field(default_factory=EvaluationResults)
    """The report's numbers of this model."""

    languages: tuple[str, ...] = ()
    """ISO 639 codes, as the user gave them."""

    datasets: tuple[str, ...] = ()
    """Hub ids of the data, as the user gave them."""

    adapter: AdapterFacts | None = None
    """Of an adapter, what it belongs to; None for whole models."""


def model_card(facts: CardFacts) -> str:
    """The text of README.md.

    Args:
        facts: The run's facts.
    """
    sections = [
        _introduction(facts),
        _own_code(facts),
        _context(facts),
        _usage(facts),
        _training(facts),
        data_mix(facts.record.get("training") or {}),
        stages(facts.record.get("training") or {}),
        f"## Evaluation\n\n{facts.evaluation}" if facts.evaluation else "",
        limits(facts.record, facts.results),
        _verification(facts.verification),
        _versions(facts),
    ]
    head = yaml.safe_dump(_front_matter(facts), sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{head}---\n\n" + "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(facts: CardFacts) -> dict[str, Any]:
    head: dict[str, Any] = dict(facts.licence)
    if facts.base_model:
        head |= {"base_model": facts.base_model, "base_model_relation": "adapter" if facts.adapter else "finetune"}
    if facts.languages:
        head["language"] = list(facts.languages)
    if facts.datasets:
        head["datasets"] = list(facts.datasets)
    tags = ["long-context", "lit-long", f"rope-{facts.record['rope']['method']}"]
    if facts.record.get("lora"):
        tags.append("lora")
    if _needs_code(facts):
        tags.append("custom_code")
    head |= {
        "library_name": "peft" if facts.adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": tags,
    }
    if facts.results.index:
        head["model-index"] = [{"name": _name(facts), "results": facts.results.index}]
    return head


def _name(facts: CardFacts) -> str:
    base = facts.base_model.rpartition("/")[2] if facts.base_model else None
    return f"{base or 'Language model (' + facts.config['model_type'] + ')'}, {_context_length(facts):,} tokens"


def _context_length(facts: CardFacts) -> int:
    return int(facts.record["rope"]["context_length"])


def _cache_size(facts: CardFacts) -> str | None:
    """Keys and values of one sequence at full length: 2 x layers x heads x head size x tokens x 2 bytes."""
    config = facts.config
    heads, layers = config.get("num_attention_heads"), config.get("num_hidden_layers")
    if not heads or not layers or not config.get("hidden_size"):
        return None
    size = config.get("head_dim") or config["hidden_size"] // heads
    number = 2 * layers * (config.get("num_key_value_heads") or heads) * size * _context_length(facts) * 2
    unit, power = next(((unit, power) for unit, power in (("GiB", 30), ("MiB", 20)) if number >= 2**power), ("KiB", 10))
    return f"{number / 2**power:,.3g} {unit} a sequence"


def _introduction(facts: CardFacts) -> str:
    rope = facts.record["rope"]
    base = f"`{facts.base_model}`" if facts.base_model else "A decoder"
    native, extended = rope["native_length"], rope["context_length"]
    how = f"trained at a context of {native:,} tokens"
    if _is_chat(facts.record):
        how = f"tuned on conversations at a context of {extended:,} tokens"
        how += f" (its base model: {native:,})" if extended > native else ""
    elif extended > native:
        how = f"with its context extended from {native:,} to {extended:,} tokens by continual pretraining"
    lines = [
        f"# {_name(facts)}",
        "",
        f"{base} {how} with lit-long; {facts.parameters:,} parameters.",
    ]
    if facts.adapter:
        lines[-1] = f"A LoRA adapter of {facts.parameters:,} parameters: {base} {how} with lit-long."
    elif facts.record.get("lora"):
        lines[-1] += " It was trained with LoRA; the adapter is merged into these weights."
    if str(facts.licence.get("license", "")).startswith("llama"):
        lines += ["", "Built with Llama."]
    return "\n".join(lines)


def _is_chat(record: Mapping[str, Any]) -> bool:
    """Whether the run trained on conversations; only instruction data says what of the input counts."""
    return (record.get("training") or {}).get("input_loss") is not None


def _needs_code(facts: CardFacts) -> bool:
    return "auto_map" in facts.config


def _own_code(facts: CardFacts) -> str:
    if not _needs_code(facts):
        return ""
    modules = sorted({f"`{name.partition('.')[0]}.py`" for name in facts.config["auto_map"].values()})
    return f"""## This model needs its own code

It was trained with xPos: attention scores decay with distance, because queries and keys are scaled by their positions.
No model class of transformers does that, so the scaling is in {" and ".join(modules)}, which run with transformers 5
and `trust_remote_code=True`. Read them first: they are short, and import torch and transformers alone.

**What does not run these files runs another model.** vLLM, SGLang, TGI, llama.cpp (GGUF), TensorRT-LLM and other
engines have model code of their own, without this scaling. The model type `{facts.config["model_type"]}`, which they do
not know, is there to stop them. Do not rename it to a stock type: the weights would load, and the answers would be
wrong without any error."""


def _context(facts: CardFacts) -> str:
    rope, training = facts.record["rope"], facts.record.get("training") or {}
    rows = [
        ("Native context", _tokens(rope["native_length"])),
        ("Extended context (`max_position_embeddings`)", _tokens(rope["context_length"])),
        ("Trained at sequence length", _tokens(training.get("sequence_length"))),
        ("Position method", _METHODS.get(rope["method"], rope["method"])),
        ("RoPE base of the base model", _plain(rope.get("native_base"))),
        ("Key-value cache at full length, 16-bit (computed)", _cache_size(facts)),
    ]
    literal = json.dumps(facts.config["rope_parameters"], indent=2)
    return (
        f"## Context\n\n{_table(rows)}\n\n```json\n{literal}\n```\n\nconfig.json holds this as `rope_parameters` "
        + (
            "for the code in this folder; no other reader has a meaning for it."
            if _needs_code(facts)
            else "(transformers 5) and as `rope_theta` and `rope_scaling` (transformers 4 and engines that read those)."
        )
    )


def _usage(facts: CardFacts) -> str:
    if facts.adapter and facts.base_model:
        return adapter_usage(facts.base_model, facts.adapter, facts.verification)
    length = facts.record["rope"]["context_length"]
    comment = "  # this folder, or the id of its repository"
    if _needs_code(facts):
        snippet = usage_snippet(".", comment=comment, custom_code=True, chat=_is_chat(facts.record))
        return f"## Use\n\n```python\n{snippet}\n```\n\nIn bfloat16 or float32, not in float16."
    return f"""## Use

```python
{usage_snippet(".", comment=comment, chat=_is_chat(facts.record))}
```

With vLLM, in this folder (state the length: some versions derive another from the RoPE settings):

```sh
vllm serve . --max-model-len {length}
```"""


def usage_snippet(folder: str, *, comment: str = "", custom_code: bool = False, chat: bool = False) -> str:
    """Python that loads a release and continues a text, or (``chat``) answers a question."""
    trust = ", trust_remote_code=True" if custom_code else ""
    inputs, skipped = 'tokenizer("Once upon a time", return_tensors="pt")', ""
    if chat:
        inputs = """tokenizer.apply_chat_template(
    [{"role": "user", "content": "DOCUMENT\\n\\nQuestion: What is it about?"}],
    add_generation_prompt=True, return_dict=True, return_tensors="pt",
)"""
        skipped = '[inputs["input_ids"].shape[1] :]'
    return f"""from transformers import AutoModelForCausalLM, AutoTokenizer

name = {json.dumps(folder)}{comment}
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto"{trust})
inputs = {inputs}
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=50)[0]{skipped}))"""


def _training(facts: CardFacts) -> str:
    training = facts.record.get("training") or {}
    data = training.get("data") or {}
    betas = training.get("betas")
    rows = [
        ("Optimizer steps", _plain(training.get("steps"))),
        ("Tokens trained on", _plain(training.get("tokens"))),
        ("Tokens per step", _plain(training.get("tokens_per_step"))),
        ("Sequence length", _plain(training.get("sequence_length"))),
        ("Micro-batch (sequences)", _plain(training.get("micro_batch"))),
        ("Peak learning rate", _plain(training.get("learning_rate"))),
        ("Warm-up steps", _plain(training.get("warmup_steps"))),
        ("Final learning rate, of the peak", _plain(training.get("final_lr_ratio"))),
        ("AdamW betas", ", ".join(f"{beta:g}" for beta in betas) if betas else None),
        ("AdamW epsilon", _plain(training.get("eps"))),
        ("Weight decay", _plain(training.get("weight_decay"))),
        ("Precision", _plain(training.get("precision"))),
        ("Seed", str(training["seed"]) if training.get("seed") is not None else None),
        ("Loss of the last step (nats per token)", _plain(training.get("last_loss"))),
        ("Time", _duration(training.get("seconds"))),
        ("Device", _plain(training.get("device"))),
        ("Data", _plain(data.get("name"))),
        ("Data, tokens", _plain(data.get("tokens"))),
        ("Data, documents", _plain(data.get("documents"))),
        ("Data, licence", _plain(data.get("license"))),
        ("Data, source", public_source(data.get("source"))),
    ]
    lora = facts.record.get("lora") or {}
    rows += [("LoRA rank", _plain(lora.get("r"))), ("LoRA alpha", _plain(lora.get("lora_alpha")))]
    table = _table(rows)
    return f"## Training\n\n{table}" if table else ""


def _verification(verification: Mapping[str, Any] | None) -> str:
    if verification is None:
        return ""
    if verification.get("kind") == WEIGHTS:
        return weights_verification(verification)
    rows = [
        f"| {p['tokens']:,} | {p['first_position']:,} to {p['last_position']:,} | {p['max_abs_difference']:.2g} "
        f"| {p['largest_logit']:.4g} | {p['same_top_token']:.1%} |"
        for p in verification["prompts"]
    ]
    positions = verification["positions"]
    keys = "`rope_theta`" if verification.get("custom_code") else "`rope_theta` and `rope_scaling`"
    return "\n".join(
        [
            "## Verification",
            "",
            f"This folder was compared with the training model before this card was written. {verification['rule']}",
            "",
            "| tokens | positions | largest difference | largest logit | same top token |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"`inv_freq` ({positions['frequencies']} frequencies) differs from the training model's by "
            f"{positions['inv_freq_difference']:.2g} (relative), and by "
            f"{positions['inv_freq_difference_by_legacy_keys']:.2g} when computed from {keys} alone. "
            "All numbers, and a prompt with its expected logits, are in `verification.json`.",
        ]
    )


def _versions(facts: CardFacts) -> str:
    versions = facts.record.get("versions") or {}
    rows = [(name, _plain(version)) for name, version in versions.items()]
    table = _table(rows)
    return f"## Versions\n\n{table}" if table else ""


def _table(rows: list[tuple[str, str | None]]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows if value]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _tokens(value: Any) -> str | None:
    return f"{value:,} tokens" if isinstance(value, int) else None


def _plain(value: Any) -> str | None:
    """A fact as text; None where it is missing or names a local place."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}" if value == value else None
    text = str(value).replace("|", "\\|").replace("\n", " ")
    return None if is_local(text) else text


def _duration(seconds: Any) -> str | None:
    if not isinstance(seconds, (int, float)):
        return None
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
