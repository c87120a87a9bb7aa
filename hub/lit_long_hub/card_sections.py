"""Sections of the model card that are tables of a run's facts: data mix, stages, limits."""

from collections.abc import Mapping
from typing import Any

from lit_long_hub.evaluation_results import EvaluationResults
from lit_long_hub.privacy import is_local


def data_mix(training: Mapping[str, Any]) -> str:
    """What was asked of each source, and what was trained on.

    Args:
        training: The record's ``training`` entry.

    Returns:
        Markdown; empty where the run did not note it.
    """
    mix = [entry for entry in training.get("mix") or [] if isinstance(entry, Mapping)]
    trained = sum(int(entry.get("trained") or 0) for entry in mix)
    if not mix or not trained:
        return ""
    rows = []
    for entry in mix:
        available, done = int(entry["available"]), int(entry["trained"])
        name, licence = str(entry["source"]), entry.get("license")
        rows.append(
            f"| {'a local source' if is_local(name) else name} | {float(entry['share']):.1%} | {done / trained:.1%} "
            f"| {done:,} | {available:,} | {done / available:.3g} | {licence or 'not stated'} |"
        )
    return "\n".join(
        [
            "## Data",
            "",
            "| source | asked | trained | tokens trained on | tokens there | passes | licence |",
            "|---|---|---|---|---|---|---|",
            *rows,
            *_targets(training),
        ]
    )


def _targets(training: Mapping[str, Any]) -> list[str]:
    """What counted in instruction tuning; nothing for pretraining, where every token does."""
    inputs = {
        "none": "what the assistant writes alone",
        "long": "what the assistant writes, and the input of long examples",
        "all": "what the assistant writes, and all input",
    }.get(str(training.get("input_loss")))
    if inputs is None:
        return []
    weight, each = training.get("input_loss_weight"), training.get("loss_weighting")
    of_input = f", a token of the input {float(weight):g} times" if weight not in (None, 1) else ""
    examples = {
        "sample": "; every example counts the same",
        "sqrt": "; examples count by the square root of their targets",
    }
    return ["", f"Targets: {inputs}{of_input}{examples.get(str(each), '')}."]


def stages(training: Mapping[str, Any]) -> str:
    """One row for each sequence length; empty where there was one only.

    Args:
        training: The record's ``training`` entry.
    """
    spans, steps = training.get("stages") or [], training.get("steps")
    per_step = training.get("tokens_per_step")
    if len(spans) < 2 or not isinstance(steps, int) or not isinstance(per_step, int):
        return ""
    ends = [min(int(span[0]), steps) for span in spans[1:]] + [steps]
    rows = [
        f"| {number} | {int(length):,} | {max(0, end - int(first)):,} | {max(0, end - int(first)) * per_step:,} |"
        for number, ((first, length), end) in enumerate(zip(spans, ends, strict=True), 1)
    ]
    return "\n".join(["## Stages", "", "| stage | sequence length | steps | tokens |", "|---|---|---|---|", *rows])


def limits(record: Mapping[str, Any], results: EvaluationResults) -> str:
    """What is known of the model's limits, and what was not measured.

    Args:
        record: The checkpoint's ``lit_long`` entry.
        results: What was measured.
    """
    rope, training = record["rope"], record.get("training") or {}
    context, trained = int(rope["context_length"]), training.get("sequence_length")
    lines = ["## Limits", "", "| | |", "|---|---|"]
    if isinstance(trained, int):
        lines.append(f"| Positions it was trained on | up to {trained:,} |")
    lines.append(
        f"| Longest text it was evaluated on | {results.longest:,} tokens |"
        if results.longest
        else "| Loss by length | not measured |"
    )
    if results.short:
        short = results.short
        lines.append(
            f"| Within {rope['native_length']:,} tokens, against {short['name']} | {short['mean']:+.3f} nats per token "
            f"(95 % interval {short['low']:+.3f} to {short['high']:+.3f}; more is worse) |"
        )
    else:
        lines.append("| Short texts, against the base model | not measured |")
    lines.append("| Retrieval, question answering, instructions, safety | not measured |")
    text = "\n".join(lines)
    if isinstance(trained, int) and trained < context:
        text += (
            f"\n\nConfigured for {context:,} tokens, but trained on sequences of {trained:,} at most: what lies "
            "between is extrapolation."
        )
    if training.get("input_loss") is not None:
        return text + (
            "\n\nThis run trained it to answer as in its conversations. Whether its answers are right, and what it "
            "refuses, may have changed with it."
        )
    return text + (
        "\n\nThis run trained it to continue text; what its base model learned of instructions or refusals may have "
        "changed."
    )


def weights_verification(verification: Mapping[str, Any]) -> str:
    """The section on a proof without logits; empty where nothing is proved yet.

    Args:
        verification: The content of verification.json, of the kind ``weights``.
    """
    if verification["passed"] is not True:
        return ""
    weights, positions = verification["weights"], verification["positions"]
    keys = "`rope_theta`" if verification.get("custom_code") else "`rope_theta` and `rope_scaling`"
    merged = (
        f" The adapter is merged into {weights['merged']:,} of them; peft's own merge of each differs by at most "
        f"{weights['merge_difference']:.2g} of its largest value, in float32."
        if weights["merged"]
        else ""
    )
    return f"""## Verification

{verification["rule"]}

All {weights["tensors"]:,} tensors ({weights["bytes"]:,} bytes, {verification["dtype"]}) are equal.{merged} `inv_freq`
({positions["frequencies"]} frequencies) differs from the training model's by {positions["inv_freq_difference"]:.2g}
(relative), and by {positions["inv_freq_difference_by_legacy_keys"]:.2g} when computed from {keys} alone. The sha256 of
every file is in `verification.json`."""
