"""The section of docs/evidence.md about instruction tuning, from benchmarks/results/paper_sft.json (see sft.py)."""

from typing import Any

RULES = {"follows": "what follows", "gap": "left-out word", "next": "next sentence", "long": "all"}
BEFORE, SHORT = "before", "short"
WITHOUT, WITH = "+ self-instruct", "+ self-instruct, input loss"


def sft(result: dict[str, Any]) -> list[str]:
    """The lines of the section."""
    arms, seeds = result["arms"], result["seeds"]
    first = arms[SHORT]["long"]
    rules = [rule for rule in RULES if rule in arms[SHORT]]
    pairs = {name: sum(found.values()) for name, found in result["chats"].items()}
    lines = [
        "## Instruction tuning (Table 9)",
        "",
        f"The base is continued to {result['length']:,} tokens, then tuned by each arm for {result['steps']} steps of "
        f"8,192 tokens ({'one seed' if seeds == 1 else f'{seeds} seeds'}) with the overlays of "
        "`recipes/instruct/table9`. No public chat set was to be had, so all chats are made by rule from the documents "
        "that the base was trained on, through the pipeline of `lit-long synthesize`: what follows a phrase, which "
        f"word is left out, which sentence comes next. {pairs['short']:,} short ones (a passage) stand for the "
        f"paper's short chats, {pairs['long']:,} long ones (up to {result['length']:,} tokens of the document) for its "
        f"self-instruct data. Measured on {first['examples']:,} long questions about {first['groups']:,} documents "
        "that no run has seen; 95 % intervals over documents, paired with the first arm on the same questions.",
        "",
        "Loss of the right answers, nats per token:",
        "",
        "| | " + " | ".join(RULES[rule] for rule in rules) + " | minus short chats alone | better? | short questions |",
        "|---|" + "---:|" * (len(rules) + 1) + "---|---:|",
    ]
    for name, arm in arms.items():
        cells = [f"{arm[rule]['nll']['mean']:.3f}" for rule in rules]
        change = arm["long"]["change"]
        cells += ["", ""] if change is None else [_signed(change), _says(change, down=True)]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{arm['short']['nll']['mean']:.3f}"]) + " |")
    lines += [
        "",
        "Is the document read? The gain is the loss with the input cut to its "
        f"{result['kept_input_tokens']} outermost tokens, so that the question stays and the document goes, minus the "
        "loss with all of it.",
        "",
        "| | gain from the document | minus that of short chats alone | more? |",
        "|---|---:|---:|---|",
    ]
    for name, arm in arms.items():
        gain, change = arm["long"]["gain"], arm["long"]["gain_change"]
        cells = [_signed(gain), *(["", ""] if change is None else [_signed(change), _says(change, down=False)])]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", _reading(arms), ""]
    lines.append(
        f"`{result['command']}`; {result['machine']}, torch {result['versions']['torch']}; seconds of training, on a "
        "shared machine: "
        + ", ".join(f"{name} {seconds:,.0f}" for name, seconds in result["training_seconds"].items())
        + "."
    )
    return lines


def _reading(arms: dict[str, Any]) -> str:
    """What the tables say of the paper's finding, from the numbers alone."""
    tuned = [name for name in arms if name != BEFORE]
    order = sorted(tuned, key=lambda name: arms[name]["long"]["nll"]["mean"])
    better = [name for name in tuned[1:] if _says(arms[name]["long"]["change"], down=True) == "yes"]
    said = [f"By loss on long questions: {' < '.join(order)}."]
    said.append(
        f"Shown to be better than short chats alone: {', '.join(better)}."
        if better
        else "No arm is shown to be better than short chats alone."
    )
    best = "and so it is here" if order[0] == WITH else f"here the lowest loss is that of: {order[0]}"
    said.append(
        f"In the paper self-instruct data with loss on the input is best, {best} (the two self-instruct arms are "
        f"{arms[WITHOUT]['long']['nll']['mean']:.3f} without and {arms[WITH]['long']['nll']['mean']:.3f} with it)."
    )
    said.append(
        "In the same number of tokens an arm with other data sees fewer short chats, and where text or input counts in "
        "the loss, answers are a small part of what is learned: after so few steps that weighs more than length."
        if order[0] == SHORT
        else ""
    )
    return " ".join(said).strip()


def _ends(value: dict[str, Any]) -> tuple[float, float] | None:
    half = value["half_width"]
    return None if half is None else (value["mean"] - half, value["mean"] + half)


def _signed(value: dict[str, Any]) -> str:
    ends = _ends(value)
    return f"{value['mean']:+.3f}" + ("" if ends is None else f" [{ends[0]:+.3f}, {ends[1]:+.3f}]")


def _says(value: dict[str, Any], *, down: bool) -> str:
    """Whether a difference is shown, ``down`` where less is better."""
    ends = _ends(value)
    if ends is None or ends[0] <= 0 <= ends[1]:
        return "not shown"
    return "yes" if (ends[1] < 0) == down else "no, worse" if down else "no, less"
