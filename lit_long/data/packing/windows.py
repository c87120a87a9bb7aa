"""``best_fit`` and ``single``: documents in a random order, packed window by window.

A pass over a part visits its documents in a computed random order. Windows of some thousand documents are packed one
after the other and their rows shuffled. Nothing about a whole corpus is ever packed, stored or sorted, so start-up
costs nothing, and a window's packing is a pure function of (part, pass, place). How many rows the windows before gave
cannot be computed without packing them: that one number per part is an *anchor*, kept in checkpoints, so that resuming
costs one window. Without anchors the windows are packed again from the beginning, with the same result.

At a change of the sequence length, rows that the stage before left in its last window are packed anew for the next
stage: no document is lost or repeated.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from lit_long.data.allocation import Allocation
from lit_long.data.documents import DocumentSet
from lit_long.data.packing.best_fit import best_fit, cut
from lit_long.data.packing.row import Row
from lit_long.data.permutation import permuted_range, seed_of
from lit_long.data.schedule import StageSpan, stage_at

Int64 = npt.NDArray[np.int64]
_ROWS = 256  # rows that a window holds about: enough for best-fit to waste little
_DOCUMENTS = (1024, 1 << 16)  # fewest and most documents of a window
_KEPT = 256  # anchors kept for going back


@dataclass(frozen=True, order=True)
class Anchor:
    """Where a window begins: ``rows`` before it in its stage, ``epoch``, first ``member`` in the pass's order.

    ``leftover``: the window holds what the stage before left over.
    """

    rows: int
    epoch: int
    member: int
    leftover: bool = False


class PartStream:
    """Rows of one part in one stage, in order.

    Args:
        documents: documents of the part.
        part: its number in the mixture.
        length: tokens per row.
        single: one document per row instead of best fit.
        seed: seed of the part.
        before: the same part's stream of the stage before, and how many of its rows that stage uses.
    """

    def __init__(
        self,
        documents: DocumentSet,
        part: int,
        length: int,
        single: bool,
        seed: int,
        before: "tuple[PartStream, int] | None",
    ) -> None:
        self.documents, self.part, self.length = documents, part, length
        self.single, self.seed, self.before = single, seed, before
        mean = max(1, documents.tokens // len(documents))
        self.window = min(len(documents), max(_DOCUMENTS[0], min(_DOCUMENTS[1], _ROWS * length // mean)))
        self.anchors: list[Anchor] = []
        self._packed: tuple[Anchor, list[Int64]] | None = None

    @cached_property
    def start(self) -> Anchor:
        """Where the stage begins: where the stage before stops."""
        if self.before is None:
            return Anchor(0, 0, 0)
        stream, used = self.before
        anchor, _ = stream.window_of(used)
        return Anchor(0, anchor.epoch, anchor.member, leftover=used > anchor.rows or anchor.leftover)

    @cached_property
    def fill(self) -> float:
        """Share of document tokens in the rows, measured on the first window of the first pass."""
        rows = self._pack_documents(0, 0)
        return sum(int((r[:, 2] - r[:, 1]).sum()) for r in rows) / (len(rows) * self.length)

    def row(self, index: int) -> Row:
        """The part's ``index``-th row of the stage."""
        anchor, rows = self.window_of(index)
        return Row(self.part, anchor.epoch, self.length, rows[index - anchor.rows])

    def window_of(self, index: int) -> tuple[Anchor, list[Int64]]:
        """The window which holds row ``index``, and its rows."""
        if self._packed is not None and self._packed[0].rows <= index < self._packed[0].rows + len(self._packed[1]):
            return self._packed
        if not self.anchors or self.anchors[0].rows > index:
            self.anchors.insert(0, self.start)
        place = bisect_right(self.anchors, index, key=lambda anchor: anchor.rows) - 1
        anchor = self.anchors[place]
        while True:
            rows = self._pack(anchor)
            after = self._after(anchor, len(rows))
            if place == len(self.anchors) - 1:
                self.anchors.append(after)
                if len(self.anchors) > _KEPT:
                    del self.anchors[1]  # going far back starts at the beginning
                    place -= 1
            if index < after.rows:
                self._packed = (anchor, rows)
                return self._packed
            place = bisect_right(self.anchors, after.rows, key=lambda anchor: anchor.rows) - 1
            anchor = after

    def _after(self, anchor: Anchor, rows: int) -> Anchor:
        if anchor.leftover:
            # the leftover's own window of documents is used up
            return self._next_documents(anchor, anchor.rows + rows)
        return self._advance(anchor, anchor.rows + rows, self.window)

    def _next_documents(self, anchor: Anchor, rows: int) -> Anchor:
        assert self.before is not None
        stream, used = self.before
        window, _ = stream.window_of(used)
        after = stream._after(window, 0)
        return Anchor(rows, after.epoch, after.member)

    def _advance(self, anchor: Anchor, rows: int, documents: int) -> Anchor:
        member = anchor.member + documents
        if member >= len(self.documents):
            return Anchor(rows, anchor.epoch + 1, 0)
        return Anchor(rows, anchor.epoch, member)

    def _pack(self, anchor: Anchor) -> list[Int64]:
        if not anchor.leftover:
            return self._pack_documents(anchor.epoch, anchor.member)
        assert self.before is not None
        stream, used = self.before
        window, rows = stream.window_of(used)
        return self._pack_pieces(_joined(np.concatenate(rows[used - window.rows :])), anchor)

    def _pack_documents(self, epoch: int, member: int) -> list[Int64]:
        count = len(self.documents)
        members = permuted_range(member, min(member + self.window, count), count, seed_of(self.seed, epoch, 3))
        lengths = self.documents.starts[members + 1] - self.documents.starts[members]
        numbers = self.documents.corpus_documents(members)
        pieces = np.stack([numbers, np.zeros_like(lengths), lengths], axis=1)
        return self._pack_pieces(pieces, Anchor(0, epoch, member))

    def _pack_pieces(self, pieces: Int64, anchor: Anchor) -> list[Int64]:
        full, short = cut(pieces, self.length)
        rows = [full[i : i + 1] for i in range(len(full))]
        rows += [short[i : i + 1] for i in range(len(short))] if self.single else best_fit(short, self.length)
        seed = seed_of(self.seed, anchor.epoch, anchor.member, int(anchor.leftover), 4)
        return [rows[i] for i in permuted_range(0, len(rows), len(rows), seed).tolist()]


def _joined(pieces: Int64) -> Int64:
    """Pieces of the same document that follow each other, as one piece."""
    pieces = pieces[np.lexsort((pieces[:, 1], pieces[:, 0]))]
    follows = (pieces[1:, 0] == pieces[:-1, 0]) & (pieces[1:, 1] == pieces[:-1, 2])
    first = np.flatnonzero(np.concatenate([[True], ~follows]))
    last = np.concatenate([first[1:], [len(pieces)]]) - 1
    return np.stack([pieces[first, 0], pieces[first, 1], pieces[last, 2]], axis=1)


class WindowedOrder:
    """Rows of each step from the parts' packed windows.

    Args:
        parts: documents of each part.
        shares: share of the tokens that each part gives; rows are drawn by share / fill, as fuller rows hold more.
        seeds: seed of each part.
        spans: stages of the run.
        single: of each part, one document per row instead of best fit.
    """

    def __init__(
        self,
        parts: Sequence[DocumentSet],
        shares: Sequence[float],
        seeds: Sequence[int],
        spans: Sequence[StageSpan],
        single: Sequence[bool],
    ) -> None:
        self.spans = spans
        self.streams: list[list[PartStream]] = []
        self.allocations: list[Allocation] = []
        for span in spans:
            before: list[tuple[PartStream, int] | None] = [None] * len(parts)
            if span.index:
                earlier = spans[span.index - 1]
                draws = (earlier.stop_step - earlier.first_step) * earlier.sequences_per_step
                used = self.allocations[-1].counts(draws)
                before = [(stream, n) for stream, n in zip(self.streams[-1], used, strict=True)]
            streams = [
                PartStream(documents, part, span.sequence_length, single[part], seeds[part], before[part])
                for part, documents in enumerate(parts)
            ]
            self.streams.append(streams)
            self.allocations.append(Allocation([s / stream.fill for s, stream in zip(shares, streams, strict=True)]))

    def rows(self, step: int) -> list[Row]:
        """Rows of optimizer step ``step`` (0-based)."""
        span = stage_at(self.spans, step)
        first = (step - span.first_step) * span.sequences_per_step
        draws = range(first, first + span.sequences_per_step)
        located = [self.allocations[span.index].locate(draw) for draw in draws]
        return [self.streams[span.index][part].row(index) for part, index in located]

    def tokens(self, steps: int) -> list[float]:
        """Tokens that each part gives in the first ``steps`` steps, by the measured fill."""
        total = [0.0] * len(self.streams[0])
        for span in self.spans:
            done = min(steps, span.stop_step) - span.first_step
            if done > 0:
                counts = self.allocations[span.index].counts(done * span.sequences_per_step)
                for part, stream in enumerate(self.streams[span.index]):
                    total[part] += counts[part] * span.sequence_length * stream.fill
        return total

    def padding(self) -> list[float]:
        """Share of padding in each part's rows of the last stage, measured on a window."""
        return [1 - stream.fill for stream in self.streams[-1]]

    def anchors(self, step: int) -> list[list[list[int]]]:
        """What makes resuming at ``step`` cheap: for each stage so far, each part's [rows, epoch, member, leftover]."""
        found = []
        for span in self.spans[: stage_at(self.spans, step).index + 1]:
            draws = (min(step, span.stop_step) - span.first_step) * span.sequences_per_step
            counts = self.allocations[span.index].counts(draws)
            windows = [s.window_of(n)[0] for s, n in zip(self.streams[span.index], counts, strict=True)]
            found.append([[a.rows, a.epoch, a.member, int(a.leftover)] for a in windows])
        return found

    def restore(self, anchors: object) -> None:
        """Take the anchors of a checkpoint."""
        if isinstance(anchors, list):
            for streams, stage in zip(self.streams, anchors, strict=False):
                for stream, (rows, epoch, member, leftover) in zip(streams, stage, strict=True):
                    stream.anchors = [Anchor(rows, epoch, member, bool(leftover))]
