"""How a micro-batch is divided over context-parallel ranks: equal tokens, nearly equal attention, any documents.

The rows of a micro-batch are laid end to end (documents never reach over two rows) and cut into blocks of one size.
Every rank gets the same number of blocks, and those are dealt so that the (query, key) pairs of the ranks are as equal
as can be: largest first, to the rank with the least so far. For one document and two blocks a rank that is the zigzag
order of ring attention (block r and block 2c-1-r); short documents need fewer cuts, uneven ones more.
The tail is filled with padding that is a document of its own and has no targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lit_long.errors import UserError

BALANCED = 1.02  # the busiest rank's pairs over the mean that needs no finer blocks
BLOCKS = (1, 2, 4, 8, 16)  # a rank, tried in turn


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one rank.

    Attributes:
        local: where they begin among the rank's own tokens.
        query_cuts: where documents begin in them, and their end, in the whole sequence; the first is the run's start.
        key_start: where the first document begins, at or before the run.
    """

    local: int
    query_cuts: tuple[int, ...]
    key_start: int

    @property
    def tokens(self) -> int:
        """Tokens of the run."""
        return self.query_cuts[-1] - self.query_cuts[0]

    @property
    def key_stop(self) -> int:
        """One past the last key that the run sees."""
        return self.query_cuts[-1]

    @property
    def key_cuts(self) -> tuple[int, ...]:
        """Where documents begin among the keys that the run sees, and their end."""
        return (self.key_start, *self.query_cuts[1:])


@dataclass(frozen=True)
class Layout:
    """Which rank has which tokens.

    Attributes:
        tokens: of the micro-batch, without padding.
        block: tokens of a block.
        blocks: int [ranks, blocks of a rank], rising in each row.
        cuts: where documents begin, and the end, padding included.
    """

    tokens: int
    block: int
    blocks: npt.NDArray[np.int64]
    cuts: tuple[int, ...]

    @property
    def ranks(self) -> int:
        """Context-parallel ranks."""
        return int(self.blocks.shape[0])

    @property
    def local_tokens(self) -> int:
        """Tokens of each rank, padding included."""
        return int(self.blocks.shape[1]) * self.block

    def index(self, rank: int) -> npt.NDArray[np.int64]:
        """Places of a rank's tokens in the sequence, int64 [local_tokens]; those from ``tokens`` on are padding."""
        index: npt.NDArray[np.int64] = (self.blocks[rank][:, None] * self.block + np.arange(self.block)).reshape(-1)
        return index

    @property
    def order(self) -> npt.NDArray[np.int64]:
        """For each block of the sequence its place in what all ranks gather, one rank behind the other."""
        order: npt.NDArray[np.int64] = np.argsort(self.blocks.reshape(-1), kind="stable")
        return order

    def runs(self, rank: int) -> list[Run]:
        """A rank's tokens as runs of neighbouring ones, documents cut out of them."""
        cuts = np.asarray(self.cuts)
        runs, local = [], 0
        mine = self.blocks[rank]
        breaks = [0, *(np.nonzero(np.diff(mine) != 1)[0] + 1).tolist(), len(mine)]
        for first, last in pairwise(breaks):
            start, stop = int(mine[first]) * self.block, (int(mine[last - 1]) + 1) * self.block
            inside = cuts[(cuts > start) & (cuts < stop)]
            begin = int(cuts[np.searchsorted(cuts, start, side="right") - 1])
            runs.append(Run(local, (start, *inside.tolist(), stop), begin))
            local += stop - start
        return runs

    def pairs(self) -> npt.NDArray[np.int64]:
        """(Query, key) pairs of each rank, int64 [ranks]."""
        costs = _block_pairs(np.asarray(self.cuts), self.block)
        pairs: npt.NDArray[np.int64] = costs[self.blocks].sum(axis=1)
        return pairs


def plan_layout(cuts: Sequence[int], ranks: int) -> Layout:
    """Divide a micro-batch over ``ranks``; the same result on every rank.

    Args:
        cuts: where documents begin in the rows laid end to end, and the end (``cu_seqlens``).
        ranks: context-parallel ranks.

    Raises:
        UserError: the cuts do not rise from 0.
    """
    given = [int(cut) for cut in cuts]
    if len(given) < 2 or given[0] != 0 or given != sorted(given) or given[-1] == 0:
        raise UserError(f"cu_seqlens is {given[:8]}...; it must rise from 0 to the number of tokens")
    tokens = given[-1]
    best: Layout | None = None
    for count in BLOCKS:
        block = -(-tokens // (ranks * count))
        total = block * ranks * count
        whole = np.unique([*given, total])  # documents without tokens, and no padding, are no documents
        layout = Layout(tokens, block, _deal(_block_pairs(whole, block), ranks), tuple(int(c) for c in whole))
        if best is None or _excess(layout) < _excess(best):
            best = layout
        if _excess(best) <= BALANCED or block == 1:
            break
    assert best is not None
    return best


def _excess(layout: Layout) -> float:
    pairs = layout.pairs()
    return float(pairs.max() / pairs.mean())


def _block_pairs(cuts: npt.NDArray[np.int64], block: int) -> npt.NDArray[np.int64]:
    """(Query, key) pairs of each block, int64 [blocks]."""
    edges = np.arange(0, int(cuts[-1]) + 1, block)
    document = np.searchsorted(cuts, edges, side="right") - 1
    ends = np.concatenate([[0], np.cumsum(np.diff(cuts) * (np.diff(cuts) + 1) // 2)])
    inside = edges - cuts[document]
    pairs: npt.NDArray[np.int64] = np.diff(ends[document] + inside * (inside + 1) // 2)
    return pairs


def _deal(costs: npt.NDArray[np.int64], ranks: int) -> npt.NDArray[np.int64]:
    """Blocks to ranks, equally many each: the largest first, to the rank with the least that has room."""
    room = len(costs) // ranks
    hands: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    if room == 1:
        return np.arange(ranks).reshape(ranks, 1)
    for block in sorted(range(len(costs)), key=lambda b: (-int(costs[b]), b)):
        rank = min((r for r in range(ranks) if len(hands[r]) < room), key=lambda r: (loads[r], r))
        hands[rank].append(block)
        loads[rank] += int(costs[block])
    return np.array([sorted(hand) for hand in hands])
