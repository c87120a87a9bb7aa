"""Evidence: the studies of data mixes and of length curricula."""

from pathlib import Path
from typing import Any

from report_tables import SOURCES, count, figure, made_by, says, signed, table


def data_mix(result: dict[str, Any]) -> list[str]:
    """The section of the data study."""
    arms = result["arms"]
    windows, documents = count(arms)
    lines = [
        "## Data mixes (Table 7)",
        "",
        f"The same base, continued with ABF at {result['length']:,} tokens on four mixes, {result['tokens']:,} tokens "
        f"each, one seed. Long: above {result['long']:,} tokens. Documents in a sequence see each other here (as the "
        "paper seems to do), or an arm without long documents would never see a long distance. Most of our text is "
        f"long, so (b) and (d) hardly differ. {windows} windows of {result['length']:,} tokens from {documents} "
        "documents, one document each.",
        "",
    ]
    rows = []
    for name, arm in arms.items():
        cells = [f"{arm[source]['loss']['mean']:.3f}" for source in SOURCES]
        change = "" if name == "base" else signed(arm["all"]["minus_base"])
        own = "" if name == "base" else signed(arm["all"]["full_minus_own_best"])
        rows.append([name, *cells, f"{arm['all']['loss_beyond_native']['mean']:.3f}", change, own])
    head = ["loss", *SOURCES, "beyond the native length", "minus base", "whole window minus own best truncation"]
    lines += table(head, rows)
    order = sorted((n for n in arms if n != "base"), key=lambda n: arms[n]["all"]["loss"]["mean"])
    lines += [
        "",
        f"By loss over all three: {' < '.join(name.split(',')[0] for name in order)}. Minus (b), on the same tokens: "
        + "; ".join(
            f"({name[0]}) {signed(arm['all']['minus_reference'])}"
            for name, arm in arms.items()
            if "minus_reference" in arm["all"]
        )
        + ". These intervals are of documents; with one seed each, differences near the 0.02 that seeds differ by in "
        "the position study are not shown. The paper ranks (a) first on all four of its tasks and finds little between "
        f"the others. {_reason(order[0])}",
        "",
    ]
    return [*lines, made_by(result, result["training_seconds"])]


def _reason(first: str) -> str:
    """The likely reason of what came out."""
    if first.startswith("a"):
        return "Books are text that the other arms do not train on: a matter of domain before one of length."
    return (
        "Not so here. The likely reason: a run of this size holds 24 rows of 4,096 tokens, each from one place of one "
        "document, and what counts is variety: many short documents in a row give more of it than one long one. "
        "Nothing about quality of long text can be learned from so few tokens."
    )


def curriculum(result: dict[str, Any]) -> list[str]:
    """The section of the curriculum study."""
    runs, arms, length, short = result["runs"], result["arms"], result["length"], result["short"]
    windows, documents = count(arms)
    name_of_full = next(iter(runs))
    full = runs[name_of_full]
    lines = [
        "## Curriculum from scratch (Tables 10 and 11, Fig. 6)",
        "",
        f"A model of a million parameters, {result['tokens']:,} tokens in {result['steps']} steps, {short} tokens a "
        f"sequence until the switch, {length:,} from then on; one seed. Loss on {windows} held-out windows of "
        f"{length:,} tokens from {documents} documents.",
        "",
    ]
    rows = []
    for name, run in runs.items():
        saved = 1 - run["formula_flops"] / full["formula_flops"]
        exact = 1 - run["exact_flops"] / full["exact_flops"]
        arm = arms[name]
        cells = [f"{run['formula_flops']:.3e}", f"{saved:.0%}", f"{exact:.0%}"]
        cells += [f"{arm[source]['loss']['mean']:.3f}" for source in SOURCES]
        rows.append([name, *cells, "" if name == name_of_full else signed(arm["all"]["minus_base"])])
    head = ["arm", "FLOPs", "saved", "saved, exact count", *SOURCES, f"minus {name_of_full}"]
    lines += table(head, rows)
    worse = [n for n in runs if n != name_of_full and says(arms[n]["all"]["minus_base"]) == "no, worse"]
    better = [n for n in runs if n != name_of_full and says(arms[n]["all"]["minus_base"]) == "yes"]
    lines += [
        "",
        "FLOPs by the paper's formula (its Table 10 to four digits: `tests/flops`); the exact count knows that "
        "documents do not see each other, so long sequences cost less than the formula says. "
        + (f"Lower loss at {length:,} tokens than {name_of_full}: {', '.join(better)}. " if better else "")
        + (f"Higher: {', '.join(worse)}. " if worse else "")
        + "The paper: switches at 20 to 80 % reach the perplexity of the long run, or a lower one.",
        "",
        "**This is a test of the machinery** (FLOPs, switches without a spike), and neither for nor against Table 11: "
        "after so few tokens the loss is still around 6 nats, far above where context is of use.",
        "",
        "The first four read the same text in the same order (a short stage cuts the rows of the long one), so they "
        "differ by length alone, and training shows no spike at the switch: the RoPE base is the same in both stages. "
        f"{short} always is dealt rows of {short} from all over the corpus, {length // short} times as many places a "
        "step; it differs from the switch at 80 % in a fifth of the steps by length but in all by order, so its lead "
        f"is likely one of variety at {result['steps']} steps, not of length.",
        "",
        "![Training loss of the curricula](images/evidence_curriculum.png)",
        "",
    ]
    return [*lines, made_by(result, {name: run["seconds"] for name, run in runs.items()})]


def plot_curriculum(result: dict[str, Any], path: Path) -> None:
    """Training loss over steps, smoothed; switches dashed."""
    made, (panel,) = figure(1, width=7)
    for name, run in result["runs"].items():
        smooth, value = [], run["train_loss"][0]
        for loss in run["train_loss"]:
            value = 0.7 * value + 0.3 * loss
            smooth.append(value)
        (line,) = panel.plot(range(1, len(smooth) + 1), smooth, label=name, linewidth=1)
        if 0 < run["switch_step"] < result["steps"]:
            panel.axvline(run["switch_step"], color=line.get_color(), linestyle="--", linewidth=0.8)
    panel.set_xlabel("step")
    panel.set_ylabel("training loss (nats per token, smoothed)")
    panel.set_ylim(top=min(9.0, panel.get_ylim()[1]))
    panel.legend(fontsize=8)
    made.savefig(path, dpi=110)
