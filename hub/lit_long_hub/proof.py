"""Proves that a release is the model that was trained, or withdraws it.

A fresh process loads the folder with plain transformers. Compared are the rotary frequencies (live against live, and
against the float64 formula of older readers), the logits on prompts that reach past the native length, the
tokenizer and the context length. It costs one copy of the model in memory, in the dtype of the release, and two
forward passes over about 1,100 tokens.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_long_hub.adapter import ADAPTER_CONFIG_NAME, AdapterBase
from lit_long_hub.config_files import read_config
from lit_long_hub.fresh_process import DoesNotLoadError, run_reader
from lit_long_hub.legacy_rope import legacy_rope
from lit_long_hub.proof_kinds import LOGITS
from lit_long_hub.reference import PROMPT_SEED, Reference
from lit_long_hub.weights import INDEX_NAME

VERIFICATION_NAME = "verification.json"
LOGIT_TOLERANCE = 1e-4
"""Largest difference of logits over the largest logit: both sides compute in float32, on equal weights."""

FREQUENCY_TOLERANCE = 1e-5
"""Relative; between float32 frequencies and the float64 formula. A wrong base differs by percents."""

TEXTS = ["The quick brown fox jumps over 13 lazy dogs.", "  Zwölf Boxkämpfer\n\tjagen 漢字 🙂 <|end|> x=1;"]
Reader = Callable[..., dict[str, Any]]
"""Called as ``proof_reader.read_folder``."""


@dataclass(frozen=True)
class LiveRotary:
    """The positions of the training model, where nothing else of it was measured."""

    inv_freq: torch.Tensor
    """Live rotary frequencies, float64 [D/2]."""

    attention_scaling: float
    """Factor on cos and sin."""


def rule(*, custom_code: bool = False, adapter: bool = False) -> str:
    """What a proof asks, in words.

    Args:
        custom_code: Whether the release's own code is run.
        adapter: Whether the release is an adapter.
    """
    reader = "transformers and the folder's own code (trust_remote_code=True)" if custom_code else "plain transformers"
    what, how = "Weights are", f"the folder, loaded by {reader} in a fresh process,"
    if adapter:
        what = "The adapter's weights are"
        how = "the base model with this folder's config (transformers) and this adapter (peft), in a fresh process,"
    return (
        f"{what} rounded to the release's dtype on both sides and computed with in float32; the logits of {how} may "
        f"differ from the training model's by at most {LOGIT_TOLERANCE:g} of the largest logit."
    )


class ExportMismatchError(RuntimeError):
    """The exported folder is not the model that was trained; the message says in what it differs.

    Args:
        message: Every difference found.
        verification: The measured numbers, where the folder could be measured at all.
    """

    def __init__(self, message: str, verification: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.verification = verification


def read_in_fresh_process(
    folder: Path,
    prompts: list[dict[str, Any]],
    texts: list[str],
    *,
    custom_code: bool = False,
    base: Path | None = None,
) -> dict[str, Any]:
    """Run ``proof_reader`` on a folder in a new Python process.

    Args:
        folder: The release.
        prompts: See ``make_prompts``.
        texts: For the tokenizer.
        custom_code: Whether the release's own code may and must run.
        base: Of an adapter, the folder of its base model.

    Raises:
        ExportMismatchError: The folder does not load there.
    """
    try:
        return run_reader(folder, prompts, texts, custom_code=custom_code, base=base)
    except DoesNotLoadError as error:
        raise ExportMismatchError(f"{folder} does not load with plain transformers: {error}") from error


def prove(
    folder: Path,
    reference: Reference,
    tokenizer: Mapping[str, Any],
    *,
    custom_code: bool = False,
    base: AdapterBase | None = None,
    reader: Reader = read_in_fresh_process,
) -> dict[str, Any]:
    """Compare a release with the training model.

    Args:
        folder: A complete release, but for verification.json and README.md.
        reference: The training model's measurements.
        tokenizer: ``proof_reader.read_tokenizer`` of the tokenizer that was trained with, on ``TEXTS``, with
            ``model_max_length`` set to the context length.
        custom_code: Whether the release holds code of its own; only then is any run.
        base: Of an adapter, its base model.
        reader: How the folder is read.

    Returns:
        The content of verification.json; ``passed`` is True.

    Raises:
        ExportMismatchError: With every difference found; its ``verification`` is the content of verification.json.
    """
    place = {} if base is None else {"base": base.folder}
    reading = reader(folder, reference.prompts, TEXTS, custom_code=custom_code, **place)
    problems, prompts = [], []
    for prompt in reference.prompts:
        numbers = _compare_logits(prompt, reference.logits[prompt["name"]], reading["logits"][prompt["name"]])
        prompts.append(numbers)
        relative = numbers["relative_difference"]
        if relative is None:
            problems.append(f"logits of prompt {prompt['name']!r} are not finite or of another vocabulary")
        elif relative > LOGIT_TOLERANCE:
            problems.append(
                f"logits of prompt {prompt['name']!r} differ by {relative:.3g} of the largest logit, "
                f"allowed is {LOGIT_TOLERANCE:g}"
            )
    by_position = _compare_losses(reference, reading.get("losses", {}), problems)
    positions = compare_positions(folder, reference, reading, problems)
    context_length = reference.prompts[-1]["position_ids"][-1] + 1
    if reading["context_length"] != context_length:
        problems.append(f"max_position_embeddings is {reading['context_length']} instead of {context_length}")
    dtype = str(reference.dtype).removeprefix("torch.")
    if reading["dtypes"] != [dtype]:
        problems.append(f"weights load as {', '.join(reading['dtypes'])} instead of {dtype}")
    for key, expected in tokenizer.items():
        if reading["tokenizer"][key] != expected:
            problems.append(f"the tokenizer's {key} differs from the one that was trained with")
    short = reference.prompts[0]
    top = reference.logits[short["name"]][-1].topk(5)
    verification = {
        "writer": "lit-long",
        "format": 1,
        "kind": LOGITS,
        "passed": not problems,
        "problems": problems,
        "rule": rule(custom_code=custom_code, adapter=base is not None),
        "custom_code": custom_code,
        "dtype": dtype,
        "logit_tolerance": LOGIT_TOLERANCE,
        "prompts": prompts,
        "prompt_seed": PROMPT_SEED,
        "prompt_sha256": hashlib.sha256(json.dumps(reference.prompts).encode()).hexdigest(),
        "loss_by_position": by_position,
        "positions": positions,
        "tokenizer_size": reading["tokenizer"]["size"],
        "versions": reading["versions"],
        "check_it_yourself": {
            "input_ids": short["input_ids"],
            "top_tokens_after_last": top.indices.tolist(),
            "their_logits": [_number(round(value, 5)) for value in top.values.tolist()],
        },
    }
    if base is not None:
        verification["adapter"] = _adapter_facts(base, reference, reading["logits_without_config"])
    if problems:
        raise ExportMismatchError(f"{folder} is not the model that was trained: {'; '.join(problems)}.", verification)
    return verification


def _adapter_facts(base: AdapterBase, reference: Reference, naive: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the adapter belongs to, and how far off it is where the base is loaded with its own positions."""
    prompts = {prompt["name"]: prompt for prompt in reference.prompts}
    return {
        "base_model": base.name,
        "revision": base.revision,
        "without_config": [_compare_logits(prompts[name], reference.logits[name], naive[name]) for name in prompts],
    }


def _compare_logits(prompt: Mapping[str, Any], expected: torch.Tensor, got: torch.Tensor) -> dict[str, Any]:
    same_shape = expected.shape == got.shape
    scale = expected.abs().max().item()
    difference = (expected - got).abs().max().item() if same_shape else float("nan")
    relative = difference / max(scale, 1e-12)
    return {
        "name": prompt["name"],
        "tokens": len(prompt["input_ids"]),
        "first_position": prompt["position_ids"][0],
        "last_position": prompt["position_ids"][-1],
        "max_abs_difference": _number(difference),
        "largest_logit": _number(scale),
        "relative_difference": _number(relative),
        "same_top_token": float((expected.argmax(-1) == got.argmax(-1)).float().mean()) if same_shape else 0.0,
    }


def _compare_losses(
    reference: Reference, losses: Mapping[str, torch.Tensor], problems: list[str]
) -> list[dict[str, Any]]:
    """Mean loss of each quarter of the prompt that reaches past the native length, in both models."""
    prompt = next((prompt for prompt in reference.prompts if prompt["name"] == "beyond_native"), None)
    if prompt is None or prompt["name"] not in reference.losses:
        return []
    expected, got = reference.losses[prompt["name"]], losses.get(prompt["name"])
    if got is None or got.shape != expected.shape:
        problems.append("the loss by position could not be measured")
        return []
    # A loss is a logit less a log-sum-exp of logits, so it may be off by twice what a logit may.
    allowed = 2 * LOGIT_TOLERANCE * reference.logits[prompt["name"]].abs().max().item()
    rows = []
    quarter = max(1, math.ceil(len(expected) / 4))
    for ours, theirs, where in zip(
        expected.split(quarter),
        got.split(quarter),
        torch.tensor(prompt["position_ids"][1:]).split(quarter),
        strict=True,
    ):
        difference = (ours - theirs).abs().max().item()
        first, last = int(where[0]), int(where[-1])
        rows.append(
            {
                "first_position": first,
                "last_position": last,
                "training_model": _number(ours.mean().item()),
                "release": _number(theirs.mean().item()),
                "max_abs_difference": _number(difference),
            }
        )
        if not difference <= allowed:
            problems.append(f"the loss at positions {first} to {last} differs by {difference:.3g} nats")
    return rows


def compare_positions(
    folder: Path, reference: Reference | LiveRotary, reading: Mapping[str, Any], problems: list[str]
) -> dict[str, Any]:
    """Compare live frequencies, and those that older readers compute, with the training model's.

    Args:
        folder: Where config.json is.
        reference: The training model's.
        reading: What the fresh process found.
        problems: Every difference is added to it.

    Returns:
        The entry ``positions`` of verification.json.
    """
    config = read_config(folder)
    live = _relative(reading["inv_freq"], reference.inv_freq)
    try:
        legacy_inv_freq, legacy_scaling = legacy_rope(config)
    except (KeyError, ValueError) as error:
        problems.append(f"older readers cannot read the positions in config.json: {error}")
        legacy_inv_freq, legacy_scaling = torch.empty(0), reference.attention_scaling
    legacy = _relative(legacy_inv_freq, reference.inv_freq)
    if live is None or live > FREQUENCY_TOLERANCE:
        problems.append(f"inv_freq differs from the training model's by {_percent(live)}")
    if legacy is None or legacy > FREQUENCY_TOLERANCE:
        problems.append(
            f"inv_freq as older readers compute it (rope_theta, rope_scaling) differs by {_percent(legacy)}"
        )
    for who, scaling in (("", reading["attention_scaling"]), (" as older readers compute it", legacy_scaling)):
        if abs(scaling - reference.attention_scaling) > FREQUENCY_TOLERANCE:
            problems.append(f"attention scaling{who} is {scaling:.6g} instead of {reference.attention_scaling:.6g}")
    if reading["inv_freq_dtype"] != "float32":
        problems.append(f"inv_freq loads as {reading['inv_freq_dtype']} instead of float32")
    return {
        "frequencies": len(reference.inv_freq),
        "inv_freq_difference": live,
        "inv_freq_difference_by_legacy_keys": legacy,
        "attention_scaling": reference.attention_scaling,
        "max_position_embeddings": reading["context_length"],
    }


def _relative(got: torch.Tensor, expected: torch.Tensor) -> float | None:
    if got.shape != expected.shape:
        return None
    return ((got - expected).abs() / expected.abs()).max().item()


def _percent(relative: float | None) -> str:
    return "its length" if relative is None else f"{relative:.2%}"


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity; None fails the comparison that follows."""
    return value if math.isfinite(value) else None


def withdraw(folder: Path) -> None:
    """Make an unproved folder loadable by nobody: config.json is renamed, the index removed."""
    for name in ("README.md", INDEX_NAME, ADAPTER_CONFIG_NAME):
        (folder / name).unlink(missing_ok=True)
    config = folder / "config.json"
    if config.is_file():
        os.replace(config, folder / "config.json.refused")
