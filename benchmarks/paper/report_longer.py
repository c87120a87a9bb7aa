"""Evidence: the longer run and its control."""

from typing import Any

from report_tables import SOURCES, count, made_by, says, signed, table


def longer(result: dict[str, Any]) -> list[str]:
    """The section of the longer run."""
    arms, native, length = result["arms"], result["native_length"], result["length"]
    windows, documents = count(arms)
    lines = [
        "## Five times the tokens, with a control",
        "",
        f"ABF on {result['tokens']:,} tokens in {result['steps']} steps at {length:,}, and the same base continued at "
        f"its own {native} tokens on as many tokens of the same mixture: what further training alone gives. {windows} "
        f"windows of {length:,} tokens from {documents} documents.",
        "",
    ]
    rows = []
    for name, arm in arms.items():
        cells = [f"{arm[source]['loss']['mean']:.3f}" for source in SOURCES]
        means = _by_context(arm)
        cells += [f"{means[c]:.3f}" for c in sorted(means)]
        rows.append([name, *cells])
    head = ["", *(f"{source}, all positions" for source in SOURCES)]
    head += [f"last tokens from {c:,}" for c in sorted(int(c) for c in arms["ABF"]["books"]["contexts"])]
    lines += table(head, rows)
    base, own = arms["ABF"]["all"]["full_minus_base_best"], arms["ABF"]["all"]["full_minus_own_best"]
    lines += [
        "",
        f"The extended model with the whole window, minus the control's best truncation: {signed(base)} "
        f"({says(base)}); minus its own best truncation: {signed(own)} ({says(own)}). Below 0, the long context pays. "
        f"Lowest, on average over the three: {', '.join(f'{n} from {c:,} tokens' for n, c in _best(arms).items())}. "
        "The best truncation is chosen on these windows, for each source by itself, which favours truncation a little. "
        "And the control reads 16 places of the corpus a step, the long run 2: part of what it gains is variety.",
        "",
    ]
    return [*lines, made_by(result, result["training_seconds"])]


def _by_context(arm: dict[str, Any]) -> dict[int, float]:
    """Loss of the last tokens by context, mean over the sources."""
    contexts = [int(c) for c in arm[SOURCES[0]]["contexts"]]
    return {c: sum(arm[source]["contexts"][str(c)] for source in SOURCES) / len(SOURCES) for c in contexts}


def _best(arms: dict[str, Any]) -> dict[str, int]:
    """The context from which each arm predicts best."""
    return {name: min(means, key=means.__getitem__) for name, arm in arms.items() if (means := _by_context(arm))}
