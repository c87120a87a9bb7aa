"""From rows to means with 95 % intervals over documents, paired between models and with and without the document.

Questions about one document share its difficulty, so the unit of an interval is the group (the document), or with
fewer than five groups the example, which then speaks for these documents only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_long.evaluation.intervals import Estimate, cluster_estimate

_FEWEST_GROUPS = 5
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ChatScore:
    """One model on one source of chats; losses in nats per token of the answer, every example counting the same.

    Attributes:
        model: its name.
        source: name of the source.
        examples: number of them.
        groups: number of documents behind them.
        unit: of the intervals: ``document`` or ``example``.
        nll: loss of the answers.
        change: this model's loss minus the first model's on the same examples; ``None`` for the first.
        gain: loss without the document minus loss with it, over the examples that have something to leave out.
        gain_change: this model's gain minus the first model's.
        with_control: number of those examples.
        greedy: how many examples' answers greedy decoding would write.
    """

    model: str
    source: str
    examples: int
    groups: int
    unit: str
    nll: Estimate
    change: Estimate | None
    gain: Estimate | None
    gain_change: Estimate | None
    with_control: int
    greedy: int


def summarise_chats(rows: Mapping[str, Sequence[Row]]) -> list[ChatScore]:
    """Scores of every source and model, sources first.

    Args:
        rows: of each model by name, all on the same examples in one order; the first model is the reference.
    """
    reference = next(iter(rows.values()))
    scores = []
    for source in dict.fromkeys(row["source"] for row in reference):
        first = [row for row in reference if row["source"] == source]
        for number, (model, every) in enumerate(rows.items()):
            own = [row for row in every if row["source"] == source]
            both = [i for i, row in enumerate(own) if "short_nll" in row]
            gain = [own[i]["short_nll"] - own[i]["nll"] for i in both]
            first_gain = [first[i]["short_nll"] - first[i]["nll"] for i in both]
            groups = len({row["group"] for row in own})
            scores.append(
                ChatScore(
                    model=model,
                    source=source,
                    examples=len(own),
                    groups=groups,
                    unit="document" if groups >= _FEWEST_GROUPS else "example",
                    nll=_estimate([row["nll"] for row in own], own),
                    change=_paired([row["nll"] for row in own], [row["nll"] for row in first], own) if number else None,
                    gain=_estimate(gain, [own[i] for i in both]) if both else None,
                    gain_change=_paired(gain, first_gain, [own[i] for i in both]) if number and both else None,
                    with_control=len(both),
                    greedy=sum(row["greedy"] for row in own),
                )
            )
    return scores


def _paired(values: Sequence[float], reference: Sequence[float], rows: Sequence[Row]) -> Estimate:
    return _estimate([a - b for a, b in zip(values, reference, strict=True)], rows)


def _estimate(values: Sequence[float], rows: Sequence[Row]) -> Estimate:
    names = [row["group"] for row in rows]
    if len(set(names)) < _FEWEST_GROUPS:
        names = [row["id"] for row in rows]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    clusters = torch.tensor([numbers[name] for name in names])
    return cluster_estimate(torch.tensor(values, dtype=torch.float64), clusters)
