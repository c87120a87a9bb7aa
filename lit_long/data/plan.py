"""The step plan: which tokens the optimizer sees at each step, as a pure function of the step number.

A corpus is one stream of tokens. In each epoch the stream, taken as a ring, is cut into sequences at an offset drawn
for that epoch (so that cuts fall elsewhere each time), and the sequences are shuffled. Sequence ``g`` of the run is
``g mod n`` of epoch ``g div n``; step ``t`` takes the next ``tokens_per_step / sequence_length`` of them.

Ranks, micro-batches and workers only divide a step's list. So resuming is one integer, and changing the number of
devices changes nothing about what is learned. Nothing is dropped: n is rounded up, so that at most
``sequence_length - 1`` tokens of an epoch are seen twice in it.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lit_long.data.permutation import permuted, seed_of
from lit_long.errors import UserError


@dataclass(frozen=True)
class SequenceRef:
    """A sequence of the plan: its ``number`` in the run, its ``epoch``, and where it begins in the token stream."""

    number: int
    epoch: int
    start: int


class StepPlan:
    """Order of the training sequences over one corpus.

    Args:
        starts: int64 [documents + 1], where each document begins in the stream; the last entry is the token count.
        sequence_length: tokens per sequence.
        tokens_per_step: tokens per optimizer step over all devices and micro-batches; a multiple of sequence_length.
        seed: seed of cuts and shuffle.
        fingerprint: identity of the corpus, part of the plan's own identity.

    Raises:
        UserError: lengths that do not divide, or a corpus smaller than one sequence.
    """

    def __init__(
        self,
        starts: npt.NDArray[np.int64],
        *,
        sequence_length: int,
        tokens_per_step: int,
        seed: int = 0,
        fingerprint: str = "",
    ) -> None:
        if sequence_length < 2:
            raise UserError(f"sequence_length is {sequence_length}; it must be at least 2 tokens")
        if tokens_per_step < sequence_length or tokens_per_step % sequence_length:
            below = tokens_per_step // sequence_length * sequence_length
            fitting = f"{below} or {below + sequence_length}" if below > 0 else str(sequence_length)
            raise UserError(
                f"tokens_per_step is {tokens_per_step}, not a multiple of sequence_length {sequence_length}; "
                f"take {fitting}"
            )
        self.starts = starts
        self.tokens = int(starts[-1])
        if self.tokens < sequence_length:
            raise UserError(
                f"the corpus has {self.tokens} tokens, fewer than one sequence of {sequence_length}; "
                f"add documents or take a shorter sequence_length"
            )
        self.sequence_length = sequence_length
        self.tokens_per_step = tokens_per_step
        self.seed = seed
        self.sequences_per_step = tokens_per_step // sequence_length
        self.sequences_per_epoch = -(-self.tokens // sequence_length)
        self.identity = hashlib.sha256(
            f"1:{fingerprint}:{sequence_length}:{tokens_per_step}:{seed}".encode()
        ).hexdigest()[:16]

    def sequence(self, number: int) -> SequenceRef:
        """The ``number``-th sequence of the run (0-based)."""
        epoch, index = divmod(number, self.sequences_per_epoch)
        offset = seed_of(self.seed, epoch, 1) % self.tokens
        place = permuted(index, self.sequences_per_epoch, seed_of(self.seed, epoch, 2))
        return SequenceRef(number, epoch, (offset + place * self.sequence_length) % self.tokens)

    def step(self, step: int) -> list[SequenceRef]:
        """Sequences of optimizer step ``step`` (0-based)."""
        first = step * self.sequences_per_step
        return [self.sequence(number) for number in range(first, first + self.sequences_per_step)]

    def pieces(self, start: int) -> list[tuple[int, int]]:
        """Pieces of documents, as (start, stop) in the stream, that fill one sequence beginning at ``start``.

        The ring is closed: after the last token comes the first. A piece never crosses a document's end.
        """
        pieces: list[tuple[int, int]] = []
        position, missing = start, self.sequence_length
        while missing:
            index = int(np.searchsorted(self.starts, position, side="right")) - 1
            stop = min(position + missing, int(self.starts[index + 1]))
            pieces.append((position, stop))
            missing -= stop - position
            position = stop % self.tokens
        return pieces

    def targets(self, start: int) -> int:
        """Number of tokens with a target in the sequence beginning at ``start``: all but the last of each document."""
        # documents end at starts[1:]; the final token of one has no successor
        stop = start + self.sequence_length
        return self.sequence_length - self._ends(start, min(stop, self.tokens)) - self._ends(0, stop - self.tokens)

    def step_targets(self, step: int) -> int:
        """Number of targets in the whole optimizer step, over all ranks and micro-batches."""
        return sum(self.targets(ref.start) for ref in self.step(step))

    def _ends(self, start: int, stop: int) -> int:
        """Documents whose last token lies in start..stop-1."""
        if stop <= start:
            return 0
        counts = np.searchsorted(self.starts[1:], [start, stop], side="right")
        return int(counts[1] - counts[0])

    def micro_batches(self, *, replicas: int, micro_batch: int) -> int:
        """Micro-batches that each of ``replicas`` devices runs per step (the gradient accumulation).

        Args:
            replicas: data-parallel ranks.
            micro_batch: sequences that a device takes at once.

        Raises:
            UserError: the sequences of a step cannot be divided evenly.
        """
        rows = self.sequences_per_step
        if micro_batch < 1 or rows % (replicas * micro_batch):
            fitting = [m for m in range(1, rows + 1) if rows % (replicas * m) == 0]
            hint = f"micro_batch may be {fitting}" if fitting else f"use a divisor of {rows} as number of devices"
            raise UserError(
                f"a step has {rows} sequences ({self.tokens_per_step} tokens / {self.sequence_length}); they cannot be "
                f"divided into micro-batches of {micro_batch} on {replicas} device(s); {hint}"
            )
        return rows // (replicas * micro_batch)
