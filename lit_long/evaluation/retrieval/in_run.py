"""Retrieval on a model in training: the same probes every time, made once, scored however the model is sharded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_long.evaluation.live import TokenScores
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.evaluation.retrieval.probe import Probe, make_probe
from lit_long.evaluation.retrieval.summary import by_length

DEPTHS = (0.1, 0.5, 0.9)
_LEAST = 256


@dataclass(frozen=True, eq=False)
class ProbeSet:
    """Probes of some tasks, lengths and depths, made once before the first step."""

    probes: tuple[tuple[dict[str, Any], Probe], ...]
    """What each is (``task``, ``length``, ``depth``, ``sample``), and itself; by rising length."""

    @property
    def tokens(self) -> int:
        """Input tokens of one evaluation."""
        return sum(len(probe.ids) for _, probe in self.probes)

    def rows(self, score: Callable[[Tensor, Tensor], TokenScores]) -> list[dict[str, Any]]:
        """A row a probe, as :func:`lit_long.evaluation.retrieval_grid` has it.

        Args:
            score: scores ids int64 [N, S + 1] at the wanted targets bool [N, S]; all probes of a length at once, so
                that data-parallel ranks share them.
        """
        rows = []
        for length in dict.fromkeys(cell["length"] for cell, _ in self.probes):
            own = [(cell, probe) for cell, probe in self.probes if cell["length"] == length]
            ids = torch.stack([torch.from_numpy(probe.ids) for _, probe in own])
            wanted = torch.zeros(len(own), length - 1, dtype=torch.bool)
            for row, (_, probe) in enumerate(own):
                wanted[row, -probe.answer :] = True
            scores = score(ids, wanted)
            for row, (cell, probe) in enumerate(own):
                hits, nll = scores.hit[row, -probe.answer :], scores.nll[row, -probe.answer :]
                rows.append(
                    {
                        **cell,
                        "place": probe.depth,
                        "exact": bool(hits.all()),
                        "token_accuracy": float(hits.float().mean()),
                        "nll": float(nll.double().mean()),
                        "tokens": probe.answer,
                    }
                )
        return rows


def make_probe_set(
    haystack: Haystack, tasks: Sequence[str], lengths: Sequence[int], *, samples: int, seed: int
) -> ProbeSet:
    """Probes of every task, length and depth; the same on every rank and at every step.

    Args:
        haystack: held-out documents.
        tasks: names of :data:`lit_long.evaluation.retrieval.tasks.TASKS`.
        lengths: tokens of the prompts.
        samples: probes of each cell.
        seed: of everything random.

    Raises:
        UserError: a length too short for a task, or documents too short for a length.
    """
    made = [
        (
            {"task": task, "length": length, "depth": depth, "sample": sample},
            make_probe(haystack, task, length=length, depth=depth, sample=sample, seed=seed),
        )
        for length in sorted(set(lengths))
        for task in tasks
        for depth in DEPTHS
        for sample in range(samples)
    ]
    return ProbeSet(tuple(made))


def default_lengths(length: int) -> tuple[int, ...]:
    """The length and its half, not below 256."""
    return tuple(sorted({length, max(min(length, _LEAST), length // 2)}))


def scalars(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """``TASK_exact_LENGTH`` (share, 0 to 1) and ``TASK_loss_LENGTH`` (nats per token of the answer)."""
    found = {}
    for score in by_length(rows):
        found[f"{score.task}_exact_{score.length}"] = score.exact.value
        found[f"{score.task}_loss_{score.length}"] = score.nll
    return found


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Plain values of each task and length for a log, with the 95 % Wilson interval."""
    return [
        {
            "task": score.task,
            "length": score.length,
            "exact": score.exact.value,
            "low": score.exact.low,
            "high": score.exact.high,
            "probes": score.exact.count,
            "loss": score.nll,
        }
        for score in by_length(rows)
    ]
