"""Loaders over a step plan: sized, and resumed from one integer.

Lightning loses a batch when it resumes an unsized loader, and saves loader state on rank 0 only (lightning #20550 and
the notes in docs/architecture.md), so the state is one global cursor that fits any number of ranks: the optimizer step.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.balance import deal, in_order, row_costs
from lit_long.data.ledger import Ledger
from lit_long.data.packing.batch import IGNORE, pack_batch
from lit_long.data.packing.row import Row
from lit_long.data.plan import StepPlan, accumulation


@dataclass(frozen=True)
class Dealing:
    """How rows go to devices.

    ``rank`` of ``replicas`` data-parallel ranks; ``quadratic``: see :func:`lit_long.data.balance.row_costs`, None to
    take rows as they come; ``document_mask``: documents of a row do not see each other.
    """

    rank: int = 0
    replicas: int = 1
    quadratic: float | None = None
    document_mask: bool = True

    def deal(self, plan: StepPlan, step: int) -> npt.NDArray[np.int64]:
        """Row numbers of the step, int64 [micro-batches, replicas, micro-batch size]."""
        rows, size = plan.step(step), plan.stage(step).micro_batch
        accumulation(plan.stage(step), self.replicas)
        if self.quadratic is None:
            return in_order(len(rows), replicas=self.replicas, micro_batch=size)
        costs = row_costs(rows, self.quadratic, document_mask=self.document_mask)
        return deal(costs, replicas=self.replicas, micro_batch=size)


class StepLoader:
    """Micro-batches of one data-parallel rank, from step ``first_step`` to ``steps``.

    Its length is ``steps`` times the largest accumulation of all stages: Lightning wants a bound on batches, and the
    run ends by its optimizer steps.

    Args:
        plan: the step plan.
        steps: optimizer steps of the run.
        dealing: how rows go to devices.
        workers: threads that assemble micro-batches ahead of the training; 0: none, each when it is asked for.
        ledger: folder in which to note what is delivered.
        on_step: called with (step, its rows) when the last micro-batch of a step is delivered.
        step_weight: weight of all targets of a step's rows; default: their number.
        build: (rows, the step's weight) -> micro-batch; default: :func:`assemble`.
    """

    def __init__(
        self,
        plan: StepPlan,
        *,
        steps: int,
        dealing: Dealing | None = None,
        workers: int = 0,
        ledger: str | None = None,
        on_step: Callable[[int, Sequence[Row]], None] = lambda step, rows: None,
        step_weight: Callable[[Sequence[Row]], float] | None = None,
        build: Callable[[Sequence[Row], float], dict[str, Any]] | None = None,
    ) -> None:
        self.plan, self.steps, self.workers, self.ledger, self.on_step = plan, steps, workers, ledger, on_step
        self.dealing = dealing if dealing is not None else Dealing()
        self.accumulation = max(accumulation(span, self.dealing.replicas) for span in plan.spans)
        self._weight, self._build = step_weight, build
        self.first_step = 0
        self._next_step = 0

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._next_step = self.first_step
        ledger = None
        if self.ledger is not None:
            ledger = Ledger(self.ledger, self.plan.parts, first_step=self.first_step, rank=self.dealing.rank)
        for task, batch in _ahead(self._tasks(), self._assemble, self.workers):
            if ledger is not None:
                ledger.write(task.step, task.rows)
            if task.last:
                self._next_step = task.step + 1
                self.on_step(task.step, task.step_rows)
            yield batch

    def _tasks(self) -> Iterator["_MicroBatch"]:
        for step in range(self.first_step, self.steps):
            rows = self.plan.step(step)
            weight = float(self.plan.step_targets(step)) if self._weight is None else self._weight(rows)
            dealt = self.dealing.deal(self.plan, step)
            for part, numbers in enumerate(dealt[:, self.dealing.rank]):
                chosen = [rows[number] for number in numbers]
                yield _MicroBatch(step, chosen, rows, weight, part == len(dealt) - 1)

    def _assemble(self, task: "_MicroBatch") -> dict[str, Any]:
        if self._build is not None:
            return self._build(task.rows, task.weight)
        return assemble(self.plan, task.rows, task.weight, self.dealing.document_mask)

    def state_dict(self) -> dict[str, int]:
        """The first step whose micro-batches have not all been delivered."""
        return {"step": self._next_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the step saved; a step left in the middle is run again from its first micro-batch."""
        self.first_step = self._next_step = int(state["step"])


@dataclass(frozen=True)
class _MicroBatch:
    step: int
    rows: list[Row]
    step_rows: list[Row]
    weight: float
    last: bool


def _ahead(tasks: Iterator[Any], work: Callable[[Any], Any], workers: int) -> Iterator[tuple[Any, Any]]:
    """(task, its result) in order; with ``workers`` threads, up to workers + 1 results are made ahead."""
    if not workers:
        yield from ((task, work(task)) for task in tasks)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="lit-long-data")
    waiting: deque[tuple[Any, Future[Any]]] = deque()
    try:
        for task in tasks:
            waiting.append((task, pool.submit(work, task)))
            if len(waiting) > workers + 1:
                done, result = waiting.popleft()
                yield done, result.result()
        while waiting:
            done, result = waiting.popleft()
            yield done, result.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def assemble(plan: StepPlan, rows: Sequence[Row], weight: float, document_mask: bool = True) -> dict[str, Any]:
    """The packed batch of rows of a plan over token corpora."""
    corpora: list[Any] = [part.documents.corpus for part in plan.parts]

    def read(part: int, document: int, begin: int, end: int) -> npt.NDArray[np.int32]:
        starts = corpora[part].starts
        length = int(starts[document + 1] - starts[document])
        tokens: npt.NDArray[np.int32] = corpora[part].span(document, begin, min(end, length))
        return tokens

    pad_id = corpora[0].info["tokenizer"]["eos_token_id"]
    return pack_batch(rows, read, pad_id=pad_id, document_mask=document_mask, step_target_weight=weight)


class HeldOutLoader:
    """The same ``sequences`` of a held-out corpus at every validation, spread evenly over it, divided among ranks.

    They never overlap: a corpus with room for fewer gives as many as fit.

    Args:
        plan: a plan with one part, the held-out documents.
        sequences: sequences wanted.
        micro_batch: sequences at once.
        dealing: rank and number of ranks.
    """

    def __init__(self, plan: StepPlan, *, sequences: int, micro_batch: int, dealing: Dealing) -> None:
        self.plan, self.micro_batch, self.document_mask = plan, micro_batch, dealing.document_mask
        documents = plan.parts[0].documents
        length = plan.spans[0].sequence_length
        sequences = min(sequences, documents.tokens // length)
        # every rank runs the same number of batches, because a collective may wait in each
        per_rank = -(-sequences // dealing.replicas)
        stride = documents.tokens // sequences
        starts = [i * stride for i in range(dealing.rank, sequences, dealing.replicas)]
        self.rows = [Row(0, 0, length, documents.pieces(start, length)) for start in starts]
        self._filler = Row(0, 0, length, documents.pieces(0, length))
        self.batches = -(-per_rank // micro_batch)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(self.batches):
            rows = self.rows[index * self.micro_batch : (index + 1) * self.micro_batch]
            batch = assemble(self.plan, rows or [self._filler], 1.0, self.document_mask)
            if not rows:  # a rank without a row of its own runs one that counts nothing
                batch["target_ids"].fill_(IGNORE)
            yield batch
