"""Dealing the rows of a step to ranks and micro-batches so that no rank waits long for another.

A row of pieces with lengths l costs sum(l + quadratic * l^2): all rows have the same number of tokens, but a row that
is one document of 32,768 tokens costs far more attention than one of a hundred short ones. Ranks meet in every
micro-batch (FSDP gathers each layer's weights), so a step takes the sum over micro-batches of the slowest rank's cost.
Dealing changes who computes what, never what is learned.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lit_long.data.packing.row import Row

Int64 = npt.NDArray[np.int64]


def row_costs(rows: Sequence[Row], quadratic: float, *, document_mask: bool = True) -> npt.NDArray[np.float64]:
    """Cost of each row in units of one token's linear work, float64 [rows]; padding counts as one more piece.

    Args:
        rows: rows of one step.
        quadratic: cost of a pair of tokens relative to a token's linear work: 1 / (6 * hidden_size) by the FLOPs of a
            Transformer layer, 72 h^2 (1 + s / 6h) per token (Narayanan et al. 2021).
        document_mask: without it a row attends as one document.
    """
    costs = np.empty(len(rows))
    for number, row in enumerate(rows):
        lengths = row.lengths
        padding = row.length - int(lengths.sum())
        squares = float((lengths.astype(np.float64) ** 2).sum()) + padding**2 if document_mask else float(row.length**2)
        costs[number] = row.length + quadratic * squares
    return costs


def in_order(rows: int, *, replicas: int, micro_batch: int) -> Int64:
    """Rows as they come: int64 [micro-batches, replicas, micro_batch]."""
    return np.arange(rows).reshape(-1, replicas, micro_batch)


def deal(costs: npt.NDArray[np.float64], *, replicas: int, micro_batch: int) -> Int64:
    """Row numbers by micro-batch and rank, int64 [micro-batches, replicas, micro_batch], evenly by cost.

    Rows of similar cost meet in the same micro-batch; within it the costliest row goes to the rank that has least so
    far (in this micro-batch, then in all), which also evens the ranks' totals.
    """
    order = np.argsort(-costs, kind="stable")
    dealt = np.empty((len(costs) // (replicas * micro_batch), replicas, micro_batch), dtype=np.int64)
    totals = np.zeros(replicas)
    for group, rows in zip(dealt, order.reshape(len(dealt), -1), strict=True):
        here, filled = np.zeros(replicas), np.zeros(replicas, dtype=np.int64)
        for row in rows:
            free = np.flatnonzero(filled < micro_batch)
            rank = free[np.lexsort((totals[free], here[free]))[0]]
            group[rank, filled[rank]] = row
            filled[rank] += 1
            here[rank] += costs[row]
            totals[rank] += costs[row]
    return dealt


def imbalance(costs: npt.NDArray[np.float64], dealt: Int64) -> float:
    """Time of the step over its time if all ranks were always equally busy (1.0 is perfect)."""
    by_rank = costs[dealt].sum(axis=2)
    return float(by_rank.max(axis=1).sum() / (costs.sum() / by_rank.shape[1]))
