"""What the rows of a grid say: shares with Wilson intervals, gain by what was hidden, effective context length."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lit_long.evaluation.intervals import Estimate, cluster_estimate

_Z = 1.959963984540054
KEPT_SHARE = 0.85


@dataclass(frozen=True)
class Share:
    """``hits`` of ``count`` with the 95 % Wilson interval."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """The share."""
        return self.hits / self.count

    @property
    def low(self) -> float:
        """Lower end."""
        return self._ends[0]

    @property
    def high(self) -> float:
        """Upper end."""
        return self._ends[1]

    @property
    def _ends(self) -> tuple[float, float]:
        n, p = self.count, self.value
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class LengthScore:
    """All probes of a task at a length."""

    task: str
    length: int
    exact: Share
    token_accuracy: float
    nll: float
    """Mean loss of the answers, nats per token."""
    gain: float | None
    """Loss with nothing hidden minus loss, paired: above 0, what is hidden is read."""
    control: Share | None
    """Exact answers with nothing hidden: what is guessed."""
    rouge: Estimate | None = None
    """ROUGE-L of greedy decoding (first sentences), 0 to 1, with its 95 % interval over probes."""


def by_length(rows: Sequence[dict[str, Any]]) -> list[LengthScore]:
    """Scores of each task at each length, in the order of the rows."""
    found = []
    for task in dict.fromkeys(row["task"] for row in rows):
        for length in sorted({row["length"] for row in rows if row["task"] == task}):
            own = [row for row in rows if row["task"] == task and row["length"] == length]
            controlled = all("control_nll" in row for row in own)
            found.append(
                LengthScore(
                    task,
                    length,
                    share(row["exact"] for row in own),
                    _mean(row["token_accuracy"] for row in own),
                    _mean(row["nll"] for row in own),
                    _mean(row["control_nll"] - row["nll"] for row in own) if controlled else None,
                    share(row["control_exact"] for row in own) if controlled else None,
                    _rouge(own),
                )
            )
    return found


def _rouge(rows: Sequence[dict[str, Any]]) -> Estimate | None:
    values = [row["rouge_l"] for row in rows if "rouge_l" in row]
    if not values:
        return None
    return cluster_estimate(torch.tensor(values, dtype=torch.float64), torch.arange(len(values)))


def effective_length(scores: Sequence[LengthScore], *, kept: float = KEPT_SHARE) -> int | None:
    """The longest length up to which each **lower** interval end keeps ``kept`` of the score at the shortest length.

    RULER's idea of an effective context with the threshold relative to the model's own short-context score, as NoLiMa
    has it; the lower end, so that few probes cannot show a long context.

    Args:
        scores: of one task.
        kept: share of the score at the shortest length.

    Returns:
        Tokens; ``None`` where not even the shortest length passes, or nothing is ever found.
    """
    ordered = sorted(scores, key=lambda score: score.length)
    if not ordered or ordered[0].exact.hits == 0:
        return None
    needed, longest = kept * ordered[0].exact.value, None
    for score in ordered:
        if score.exact.low < needed:
            break
        longest = score.length
    return longest


def share(values: Iterable[bool]) -> Share:
    """The share of true values."""
    found = [bool(value) for value in values]
    return Share(sum(found), len(found))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
