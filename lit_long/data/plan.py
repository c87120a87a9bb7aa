"""The step plan: which tokens the optimizer sees at each step, as a pure function of the step number.

(corpus fingerprints, mixture, length schedule, packing, tokens per step, seed) and a step number give the rows of that
step. Ranks, micro-batches and workers only divide them. So resuming is one integer, and changing the number of devices
changes nothing about what is learned.
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from lit_long.data.mixture import Part
from lit_long.data.packing import Packing
from lit_long.data.packing.concat import ConcatOrder
from lit_long.data.packing.row import Row
from lit_long.data.packing.windows import WindowedOrder
from lit_long.data.permutation import seed_of
from lit_long.data.schedule import StageSpan, stage_at
from lit_long.errors import UserError

_VERSION = 2  # of the order: another number, another data order from the same settings


class StepPlan:
    """Rows of every optimizer step.

    Args:
        parts: the mixture's parts (:func:`lit_long.data.mixture.build_parts`).
        spans: stages of the run (:meth:`lit_long.data.LengthSchedule.spans`).
        tokens_per_step: tokens per optimizer step over all devices and micro-batches, padding included.
        packing: see :mod:`lit_long.data.packing`.
        seed: seed of cuts and order.

    Raises:
        UserError: fewer tokens than one sequence.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        spans: Sequence[StageSpan],
        tokens_per_step: int,
        packing: Packing = "concat",
        seed: int = 0,
    ) -> None:
        self.parts, self.spans, self.tokens_per_step = tuple(parts), tuple(spans), tokens_per_step
        self.packing, self.seed = packing, seed
        longest = max(span.sequence_length for span in spans)
        available = sum(part.documents.tokens for part in parts)
        if available < longest and packing == "concat":
            raise UserError(
                f"the data has {available} tokens, fewer than one sequence of {longest}; "
                f"add documents or take a shorter sequence_length"
            )
        documents = [part.documents for part in parts]
        shares = [part.share for part in parts]
        seeds = [seed_of(seed, _number(f"{part.name}/{part.bucket}")) for part in parts]
        self._order: ConcatOrder | WindowedOrder
        if packing == "concat":
            self._order = ConcatOrder(documents, shares, seeds, spans, tokens_per_step)
        else:
            self._order = WindowedOrder(
                documents, shares, seeds, spans, [packing == "single" or part.single for part in parts]
            )
        self._step: tuple[int, list[Row]] = (-1, [])

    @property
    def identity(self) -> str:
        """Hash of everything that decides the order; stages that come last may grow with the run."""
        facts = [
            _VERSION,
            [[p.name, p.bucket, p.share, str(p.documents.corpus.fingerprint), str(p.documents.selection)]
             + (["single"] if p.single else [])  # left out where it was never said: older checkpoints go on
             for p in self.parts],
            [[span.first_step, span.sequence_length] for span in self.spans],
            self.tokens_per_step,
            self.packing,
            self.seed,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]

    def step(self, step: int) -> list[Row]:
        """Rows of optimizer step ``step`` (0-based)."""
        if self._step[0] != step:
            self._step = (step, self._order.rows(step))
        return self._step[1]

    def step_targets(self, step: int) -> int:
        """Number of targets in the whole optimizer step, over all ranks and micro-batches."""
        return sum(self.targets(row) for row in self.step(step))

    def targets(self, row: Row) -> int:
        """Tokens of a row with a target: all but the last of each document."""
        starts = self.parts[row.part].documents.corpus.starts
        document, _, end = row.pieces.T
        return row.tokens - int(np.count_nonzero(end == starts[document + 1] - starts[document]))

    def stage(self, step: int) -> StageSpan:
        """The stage that a step belongs to."""
        return stage_at(self.spans, step)

    def planned_tokens(self, steps: int) -> list[float]:
        """Tokens that each part gives in the first ``steps`` steps."""
        return self._order.tokens(steps)

    def padding(self) -> list[float]:
        """Share of padding in each part's rows, measured on a sample of its documents."""
        return self._order.padding()

    def anchors(self, step: int) -> object:
        """Plain values that make going on at ``step`` cheap; the order does not depend on them."""
        return self._order.anchors(step)

    def restore(self, anchors: object) -> None:
        """Take what :meth:`anchors` gave."""
        self._order.restore(anchors)

    def micro_batches(self, step: int, *, replicas: int) -> int:
        """Micro-batches that each of ``replicas`` devices runs in a step (the gradient accumulation).

        Raises:
            UserError: the sequences of a step cannot be divided evenly.
        """
        return accumulation(self.stage(step), replicas)


def accumulation(span: StageSpan, replicas: int) -> int:
    """Micro-batches of each data-parallel rank per optimizer step in a stage.

    Raises:
        UserError: the sequences of a step cannot be divided evenly.
    """
    rows, micro_batch = span.sequences_per_step, span.micro_batch
    if micro_batch < 1 or rows % (replicas * micro_batch):
        fitting = [m for m in range(1, rows + 1) if rows % (replicas * m) == 0]
        hint = f"micro_batch may be {fitting}" if fitting else f"use a divisor of {rows} as number of devices"
        raise UserError(
            f"a step has {rows} sequences of {span.sequence_length} tokens; they cannot be "
            f"divided into micro-batches of {micro_batch} on {replicas} device(s); {hint}"
        )
    return rows // (replicas * micro_batch)


def _number(name: str) -> int:
    """64 bits of a name, so that a source's order does not depend on the other sources."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
