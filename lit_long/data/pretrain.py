"""PretrainData: packed sequences of a mixture of token corpora, in the order of the step plan."""

from lit_long.data.corpus import TokenCorpus
from lit_long.data.documents import DocumentSet, Selection
from lit_long.data.loader import Dealing, HeldOutLoader, StepLoader
from lit_long.data.mixture import Mixture, MixtureSource, Part, build_parts
from lit_long.data.packing import Packing
from lit_long.data.plan import StepPlan
from lit_long.data.planned import PlannedData
from lit_long.data.schedule import LengthSchedule, Stage
from lit_long.errors import UserError


class PretrainData(PlannedData):
    """Training (and held-out) sequences from corpora of ``lit-long prepare``.

    Gradient accumulation follows from ``tokens_per_step``, the number of devices and ``micro_batch``; the trainer's own
    ``accumulate_grad_batches`` is set by this class.

    Args:
        corpus: one corpus folder; or give ``mixture``.
        mixture: several corpora with token budgets and length up-sampling.
        sequence_length: tokens per sequence; or give ``schedule``.
        schedule: stages of sequence length within the run.
        tokens_per_step: tokens per optimizer step, over all devices and micro-batches (4,194,304 in the paper).
        micro_batch: sequences that a device takes at once; with a schedule, in the longest stage.
        packing: ``concat`` (one stream cut into sequences), ``best_fit`` (no document is cut unless it is longer than a
            sequence) or ``single`` (one document per sequence).
        document_mask: documents in a sequence do not see each other; with false, attention crosses their boundaries.
        balance: deal the sequences of a step to devices and micro-batches evenly by cost.
        seed: seed of the data order; independent of ``seed_everything``.
        split: split of ``corpus`` to train on.
        validation_split: split of the corpora to validate on, or None; with a mixture, each source is measured apart.
        validation_sequences: sequences taken from it (from each source), spread evenly, the same at each validation;
            fewer where the split has no room for so many without overlap.
        workers: threads that read and pack ahead of the training.
        ledger: folder in which each delivered piece of a document is noted (:mod:`lit_long.data.ledger`).
        allow_changed_data: resume although corpus, mixture, schedule or seed are not those of the checkpoint.

    Raises:
        UserError: no such corpus or split, lengths that do not divide, data shorter than one sequence.
    """

    def __init__(
        self,
        *,
        corpus: str | None = None,
        mixture: Mixture | None = None,
        sequence_length: int | None = None,
        schedule: LengthSchedule | None = None,
        tokens_per_step: int = 4_194_304,
        micro_batch: int = 1,
        packing: Packing = "concat",
        document_mask: bool = True,
        balance: bool = True,
        seed: int = 0,
        split: str = "train",
        validation_split: str | None = None,
        validation_sequences: int = 16,
        workers: int = 1,
        ledger: str | None = None,
        allow_changed_data: bool = False,
    ) -> None:
        super().__init__()
        if (corpus is None) == (mixture is None):
            raise UserError("data: give corpus (one folder) or mixture (several sources), and not both")
        if (sequence_length is None) == (schedule is None):
            raise UserError("data: give sequence_length or schedule (stages of it), and not both")
        if workers < 0:
            raise UserError(f"data.workers is {workers}; it must be 0 or more")
        self.schedule = schedule or LengthSchedule((Stage(sequence_length=sequence_length or 0),))
        self.sequence_length, self.tokens_per_step = self.schedule.longest, tokens_per_step
        self.micro_batch, self.packing, self.seed = micro_batch, packing, seed
        self.document_mask, self.balance, self.workers = document_mask, balance, workers
        self.ledger, self.allow_changed_data = ledger, allow_changed_data
        self.validation_sequences = validation_sequences
        self.mixture = mixture or Mixture(sources={"all": MixtureSource(corpus=str(corpus), split=split)})
        self.parts = build_parts(self.mixture)
        if validation_split is not None:
            if validation_sequences < 1:
                raise UserError(
                    f"data.validation_sequences is {validation_sequences}; it must be at least 1, or leave "
                    f"validation_split out"
                )
            self.held_out = self._held_out(validation_split)
        self.dealing = Dealing(document_mask=document_mask)
        if len(self.schedule.stages) == 1:  # what can be checked without a trainer is checked at once
            self._plan(-1)

    def _held_out(self, split: str) -> dict[str, Part]:
        found = {}
        for name, source in self.mixture.sources.items():
            documents = DocumentSet(TokenCorpus(source.corpus, split), Selection(source.source))
            if documents.tokens < self.sequence_length:
                raise UserError(
                    f"validation: the split {split!r} of {source.corpus} has {documents.tokens} tokens for source "
                    f"{name!r}, fewer than one sequence of {self.sequence_length}; hold out more documents, or leave "
                    f"validation_split out"
                )
            found[name] = Part(name, "all", documents, 1.0)
        return found

    def train_dataloader(self) -> StepLoader:
        """Micro-batches of this rank for the whole run."""
        assert self.trainer is not None
        assert self.plan is not None
        return StepLoader(
            self.plan,
            steps=self.trainer.max_steps,
            dealing=self.dealing,
            workers=self.workers,
            ledger=self.ledger,
            on_step=self._count,
        )

    def val_dataloader(self) -> list[HeldOutLoader]:
        """The held-out sequences of this rank, a loader a source; none without a validation split."""
        return [
            HeldOutLoader(
                self._held_out_plan(part),
                sequences=self.validation_sequences,
                micro_batch=self.micro_batch,
                dealing=self.dealing,
            )
            for part in self.held_out.values()
        ]

    def _held_out_plan(self, part: Part) -> StepPlan:
        spans = LengthSchedule((Stage(sequence_length=self.sequence_length),)).spans(
            steps=-1, tokens_per_step=self.sequence_length
        )
        return StepPlan([part], spans=spans, tokens_per_step=self.sequence_length)
