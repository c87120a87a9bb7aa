"""``concat``: each part of the mixture is one endless stream, cut into slots of the longest sequence.

Pass after pass, the stream goes on where the pass before ended, so cuts fall elsewhere each time and every token is
seen exactly once a pass. The slots that begin in a pass are shuffled by a computed permutation. A shorter stage of a
length schedule cuts each slot into several sequences: the tokens of a step are the same at every sequence length.
All of it is arithmetic: any step costs the same, whatever came before.
"""

from collections.abc import Sequence

from lit_long.data.allocation import Allocation
from lit_long.data.documents import DocumentSet
from lit_long.data.packing.row import Row
from lit_long.data.permutation import permuted, seed_of
from lit_long.data.schedule import StageSpan, stage_at


class ConcatOrder:
    """Rows of each step from the parts' streams.

    Args:
        parts: documents of each part.
        shares: share of the tokens that each part gives.
        seeds: seed of each part.
        spans: stages of the run.
        tokens_per_step: tokens per optimizer step.
    """

    def __init__(
        self,
        parts: Sequence[DocumentSet],
        shares: Sequence[float],
        seeds: Sequence[int],
        spans: Sequence[StageSpan],
        tokens_per_step: int,
    ) -> None:
        self.parts, self.seeds, self.spans = parts, seeds, spans
        self.slot = max(span.sequence_length for span in spans)
        self.slots_per_step = tokens_per_step // self.slot
        self.allocation = Allocation(shares)

    def rows(self, step: int) -> list[Row]:
        """Rows of optimizer step ``step`` (0-based)."""
        length = stage_at(self.spans, step).sequence_length
        rows = []
        for draw in range(step * self.slots_per_step, (step + 1) * self.slots_per_step):
            part, index = self.allocation.locate(draw)
            epoch, start = self.place(part, index)
            documents = self.parts[part]
            for offset in range(0, self.slot, length):
                pieces = documents.pieces((start + offset) % documents.tokens, length)
                rows.append(Row(part, epoch, length, pieces))
        return rows

    def place(self, part: int, index: int) -> tuple[int, int]:
        """Pass over the part, and position in its stream, of the part's ``index``-th slot."""
        tokens, seed = self.parts[part].tokens, self.seeds[part]
        epoch = index * self.slot // tokens
        first, stop = -(-epoch * tokens // self.slot), -(-(epoch + 1) * tokens // self.slot)
        shuffled = first + permuted(index - first, stop - first, seed_of(seed, epoch, 2))
        return epoch, (seed_of(seed, 1) + shuffled * self.slot) % tokens

    def tokens(self, steps: int) -> list[float]:
        """Tokens that each part gives in the first ``steps`` steps."""
        return [float(count * self.slot) for count in self.allocation.counts(steps * self.slots_per_step)]

    def padding(self) -> list[float]:
        """Share of padding in each part's rows: none."""
        return [0.0] * len(self.parts)

    def anchors(self, step: int) -> None:
        """Nothing needs to be remembered to go on at a step."""

    def restore(self, anchors: object) -> None:
        """Nothing needs to be remembered to go on at a step."""
