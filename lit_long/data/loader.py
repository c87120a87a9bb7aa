"""Loaders over a step plan: sized, and resumed from one integer.

Lightning loses a batch when it resumes an unsized loader, and saves loader state on rank 0 only (lightning #20550 and
the notes in docs/architecture.md), so the state is one global cursor that fits any number of ranks: the optimizer step.
"""

from collections.abc import Iterator
from typing import Any

from lit_long.data.corpus import TokenCorpus
from lit_long.data.packing import IGNORE, pack_batch
from lit_long.data.plan import StepPlan


class StepLoader:
    """Micro-batches of one data-parallel rank, from step ``first_step`` to ``steps``.

    Its length counts the whole run's micro-batches, done ones included, as Lightning's own batch counter does.
    """

    def __init__(
        self, corpus: TokenCorpus, plan: StepPlan, *, steps: int, micro_batch: int, rank: int, replicas: int
    ) -> None:
        self.corpus, self.plan, self.steps = corpus, plan, steps
        self.micro_batch, self.rank, self.replicas = micro_batch, rank, replicas
        self.accumulation = plan.micro_batches(replicas=replicas, micro_batch=micro_batch)
        self.first_step = 0
        self._delivered = 0

    def __len__(self) -> int:
        return self.steps * self.accumulation

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._delivered = self.first_step * self.accumulation
        for step in range(self.first_step, self.steps):
            refs = self.plan.step(step)
            weight = float(self.plan.step_targets(step))
            for part in range(self.accumulation):
                first = (part * self.replicas + self.rank) * self.micro_batch
                rows = [ref.start for ref in refs[first : first + self.micro_batch]]
                self._delivered += 1
                yield pack_batch(self.corpus, self.plan, rows, step_target_weight=weight)

    def state_dict(self) -> dict[str, int]:
        """The first step whose micro-batches have not all been delivered."""
        return {"step": self._delivered // self.accumulation}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the step saved; a step left in the middle is run again from its first micro-batch."""
        self.first_step = int(state["step"])
        self._delivered = self.first_step * self.accumulation


class HeldOutLoader:
    """The same ``sequences`` of a held-out corpus at every validation, spread evenly over it, divided among ranks.

    They never overlap: a corpus with room for fewer gives as many as fit.
    """

    def __init__(
        self, corpus: TokenCorpus, plan: StepPlan, *, sequences: int, micro_batch: int, rank: int, replicas: int
    ) -> None:
        self.corpus, self.plan, self.micro_batch = corpus, plan, micro_batch
        sequences = min(sequences, plan.tokens // plan.sequence_length)
        # every rank runs the same number of batches, because a collective may wait in each
        per_rank = -(-sequences // replicas)
        stride = plan.tokens // sequences
        self.starts = [i * stride for i in range(rank, sequences, replicas)]
        self.batches = -(-per_rank // micro_batch)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(self.batches):
            rows = self.starts[index * self.micro_batch : (index + 1) * self.micro_batch]
            filler = not rows
            batch = pack_batch(self.corpus, self.plan, rows or [0], step_target_weight=1.0)
            if filler:  # a rank without a row of its own runs one that counts nothing
                batch["target_ids"].fill_(IGNORE)
            yield batch
