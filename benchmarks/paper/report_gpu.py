"""The section of docs/evidence.md about the studies on a GPU, from benchmarks/results/paper_gpu_*.json (see gpu.py).

A cell says what its file says; without the file it says so.
"""

import json
from pathlib import Path
from typing import Any

from gpu_arms import CURRICULA, LENGTH, POSITIONS
from report_tables import SOURCES, count, plot_by_position, says, signed, table

NAMES = {"abf": "ABF", "rope": "RoPE", "pi": "PI", "xpos_abf": "xPos-ABF"}
NAMES |= {"32k": "32,768 always"} | {f"switch_{share}": f"switch at {share} %" for share in (20, 40, 80)}
REFERENCE = "32k"  # of the curricula
NOT_RUN, NOT_MEASURED = "not run", "not measured"
Results = dict[str, dict[str, Any]]


def gpu(results: Path) -> list[str]:
    """The lines of the section."""
    found = load(results)
    lines = ["## On one GPU", ""]
    if not found:
        lines += ["Nothing of this has been run: no GPU was at hand.", ""]
    lines += [
        "`benchmarks/paper/gpu.py` trains and measures each arm in pieces of a few minutes (its first lines are the "
        "commands), and its result says how much was really trained.",
        "",
        *_trials(found),
        *_positions({name: found[name] for name in POSITIONS if name in found}),
        "",
        *_curricula({name: found[name] for name in CURRICULA if name in found}),
        "",
    ]
    return lines


def load(results: Path) -> Results:
    """Arm -> its result, of those that have one."""
    files = {name: results / f"paper_gpu_{name}.json" for name in (*POSITIONS, *CURRICULA)}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def _trials(found: Results) -> list[str]:
    tiny = [NAMES[name] for name, result in found.items() if result["tiny"] != 1]
    return [f"**A trial with all lengths divided, no evidence: {', '.join(tiny)}.**", ""] if tiny else []


def _measured(found: Results) -> dict[str, dict[str, Any]]:
    return {name: result["measured"] for name, result in found.items() if result["measured"] is not None}


def _windows(measured: dict[str, dict[str, Any]]) -> str:
    """What the losses stand on."""
    if not measured:
        return "held-out documents"
    windows, documents = count(next(iter(measured.values()))["arms"])
    return f"{windows} windows from {documents} held-out documents"


def _missing(found: Results, name: str, cells: int) -> list[str]:
    """What stands in the cells of an arm without a measurement."""
    return [NOT_RUN if name not in found else NOT_MEASURED] * cells


def _positions(found: Results) -> list[str]:
    measured = _measured(found)
    first = next(iter(found.values()), None)
    about = f" Base: {first['base']}." if first else ""
    lines = [
        f"### SmolLM2-135M from 8,192 to {LENGTH:,} tokens (Table 5)",
        "",
        "`recipes/smollm2_135m_32k.yaml` with each overlay of `recipes/ablations/positions`, on books, manuals and "
        f"code (30, 35 and 35 % of the tokens); one seed.{about} Loss at full length on {_windows(measured)}, nats per "
        "token:",
        "",
    ]
    base_losses = [NOT_MEASURED if found else NOT_RUN] * 5
    if measured:
        base_losses = _losses(next(iter(measured.values()))["arms"]["base"])
    rows = [["base", "0", *base_losses]]
    for name in POSITIONS:
        cells = _losses(measured[name]["arms"][name]) if name in measured else _missing(found, name, 5)
        rows.append([NAMES[name], _tokens(found, name), *cells])
    lines += table(["", "tokens trained", *SOURCES, "positions up to 8,192", "beyond"], rows)
    lines += [
        "",
        "The last tokens of each window, predicted from all of it, minus the same from the best truncation; 95 % "
        "intervals over documents. Below 0, the long context pays:",
        "",
    ]
    rows = []
    for name in POSITIONS:
        cells = _missing(found, name, 4)
        if name in measured:
            whole = measured[name]["arms"][name]["all"]
            base, own = whole["full_minus_base_best"], whole["full_minus_own_best"]
            cells = [signed(base), says(base), signed(own), says(own)]
        rows.append([NAMES[name], *cells])
    lines += table(["arm", "minus the base's best truncation", "better?", "minus its own best", "better?"], rows)
    lines += ["", *_needles(measured), *_reading(measured), *_made_by(POSITIONS, found)]
    return lines


def _losses(arm: dict[str, Any]) -> list[str]:
    return [f"{arm[source]['loss']['mean']:.3f}" for source in SOURCES] + [
        f"{arm['all'][key]['mean']:.3f}" for key in ("loss_within_native", "loss_beyond_native")
    ]


def _tokens(found: Results, name: str) -> str:
    """Of the checkpoint that was measured, else of the last one."""
    return f"{(found[name]['measured'] or found[name])['tokens']:,}" if name in found else NOT_RUN


def _needles(measured: dict[str, dict[str, Any]]) -> list[str]:
    """Numbers hidden in books: exact answers of those asked for, by length."""
    rows, head = [], [""]
    for name, one in measured.items():
        for model, cells in one["needles"].items():
            if model == name or not rows:
                head = ["", *(f"{int(length):,}" for length in cells)]
                rows.append([NAMES.get(model, model), *(f"{c['exact']} of {c['asked']}" for c in cells.values())])
    return ["Needles found, by length of the prompt:", "", *table(head, rows), ""] if rows else []


def _reading(measured: dict[str, dict[str, Any]]) -> list[str]:
    """What the tables say, from the numbers alone."""
    if not measured:
        return []
    arms = {name: one["arms"][name]["all"] for name, one in measured.items()}
    both = [n for n, arm in arms.items() if {says(arm[f"full_minus_{w}_best"]) for w in ("base", "own")} == {"yes"}]
    said = [f"Better than the base and than itself on the best truncation: {', '.join(NAMES[n] for n in both)}." if both
            else "No arm is shown to beat both the base and itself on the best truncation."]  # fmt: skip
    tokens = {one["tokens"] for one in measured.values()}
    if len(measured) > 1 and len(tokens) == 1:
        order = sorted(arms, key=lambda name: arms[name]["loss"]["mean"])
        said.append(
            f"By loss at full length: {' < '.join(NAMES[name] for name in order)} (the paper: ABF <= xPos-ABF < PI < "
            f"RoPE)."
        )
        pairs = {name: minus(measured[name], measured["abf"]) for name in arms if "abf" in arms and name != "abf"}
        told = "; ".join(f"{NAMES[name]} {signed(value)}" for name, value in pairs.items() if value is not None)
        said += [f"Minus ABF, on the same tokens: {told}."] if told else []
    elif len(measured) > 1:
        said.append("The arms were trained on different numbers of tokens, so their order says nothing.")
    return [" ".join(said), "", "![Loss by position](images/evidence_gpu_positions.png)", ""]


def minus(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any] | None:
    """Loss of one arm minus that of another, window by window, with its interval; None where the windows differ."""
    import torch

    from lit_long.evaluation.intervals import cluster_estimate

    differences, clusters, offset = [], [], 0
    for source in SOURCES:
        ours, theirs = one["windows"][source], other["windows"][source]
        if ours["fingerprint"] != theirs["fingerprint"]:
            return None
        differences.append(torch.tensor(ours["loss"], dtype=torch.float64) - torch.tensor(theirs["loss"]).double())
        clusters.append(torch.tensor(ours["documents"]) + offset)
        offset += max(ours["documents"]) + 1
    estimate = cluster_estimate(torch.cat(differences), torch.cat(clusters))
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high}


def _curricula(found: Results) -> list[str]:
    measured = _measured(found)
    lines = [
        "### Curriculum from scratch, 64 million parameters (Tables 10, 11)",
        "",
        "`benchmarks/paper/recipes/scratch_gpu.yaml` with each overlay of `recipes/ablations/curriculum`: 4,096 tokens "
        f"a sequence until the switch, {LENGTH:,} from then on; one seed. FLOPs of the whole run by the paper's "
        f"formula; loss at {LENGTH:,} tokens on {_windows(measured)}.",
        "",
    ]
    full, rows = found.get(REFERENCE), []
    for name in CURRICULA:
        cells = [NOT_RUN] * 2
        if name in found:
            flops = found[name]["formula_flops"]
            cells = [f"{flops:.3e}", f"{1 - flops / full['formula_flops']:.0%}" if full else NOT_RUN]
        losses = _missing(found, name, 3)
        if name in measured:
            losses = [f"{measured[name]['arms'][name][source]['loss']['mean']:.3f}" for source in SOURCES]
        rows.append([NAMES[name], _tokens(found, name), *cells, *losses, _against(found, name)])
    head = ["arm", "tokens trained", "FLOPs", "saved", *SOURCES, f"minus {NAMES[REFERENCE]}"]
    lines += [*table(head, rows), ""]
    if measured:
        lines += ["The paper: switches at 20 to 80 % reach the perplexity of the long run, or a lower one.", ""]
    return [*lines, *_made_by(CURRICULA, found)]


def _against(found: Results, name: str) -> str:
    """An arm minus the reference, where both are measured after as many tokens."""
    measured = _measured(found)
    if name == REFERENCE:
        return ""
    for one in (name, REFERENCE):
        if one not in measured:
            return _missing(found, one, 1)[0]
    if measured[name]["tokens"] != measured[REFERENCE]["tokens"]:
        return "other tokens"
    value = minus(measured[name], measured[REFERENCE])
    return "other windows" if value is None else signed(value)


def _made_by(arms: dict[str, str], found: Results) -> list[str]:
    """How each arm was made, and how fast."""
    rows = []
    for name in arms:
        pieces = found[name]["pieces"] if name in found else []
        if not pieces:
            rows.append([NAMES[name], *[NOT_RUN] * 6])
            continue
        last, planned = pieces[-1], found[name]["planned_tokens"]
        numbers = ", ".join(f"{package} {number}" for package, number in last["versions"].items())
        rows.append(
            [
                NAMES[name],
                f"`{last['command']}`",
                last["device"],
                numbers,
                f"{found[name]['tokens'] / planned:.0%} of {planned:,}",
                f"{sum(piece['seconds'] for piece in pieces):,.0f} in {len(pieces)}",
                f"{last['tokens_per_second']:,}",
            ]
        )
    head = ["arm", "command", "device", "versions", "trained", "seconds, pieces", "tokens/s"]
    return table(head, rows, text=4)


def plot_gpu(results: Path, path: Path) -> None:
    """Loss by position of the base and of each position arm that is measured, a panel a source."""
    measured = _measured({name: one for name, one in load(results).items() if name in POSITIONS})
    if not measured:
        return
    rows = {"base": next(iter(measured.values()))["arms"]["base"]}
    rows |= {NAMES[name]: one["arms"][name] for name, one in measured.items()}
    plot_by_position(rows, path)
