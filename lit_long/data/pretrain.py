"""PretrainData: packed sequences of a token corpus for continual pretraining, in the order of the step plan."""

from typing import Any

from lightning.pytorch import LightningDataModule

from lit_long.data.corpus import TokenCorpus
from lit_long.data.loader import HeldOutLoader, StepLoader
from lit_long.data.plan import StepPlan
from lit_long.errors import UserError


class PretrainData(LightningDataModule):
    """Training (and held-out) sequences from a corpus of ``lit-long prepare``.

    Gradient accumulation follows from ``tokens_per_step``, the number of devices and ``micro_batch``; the trainer's own
    ``accumulate_grad_batches`` is set by this class.

    Args:
        corpus: the corpus folder.
        sequence_length: tokens per sequence.
        tokens_per_step: tokens per optimizer step, over all devices and micro-batches (4,194,304 in the paper).
        micro_batch: sequences that a device takes at once.
        seed: seed of the data order; independent of ``seed_everything``.
        split: split of the corpus to train on.
        validation_split: split to validate on, or None.
        validation_sequences: sequences taken from it, spread evenly, the same at each validation; fewer where the split
            has no room for so many without overlap.

    Raises:
        UserError: no such corpus or split, lengths that do not divide, a split shorter than one sequence.
    """

    def __init__(
        self,
        *,
        corpus: str,
        sequence_length: int,
        tokens_per_step: int = 4_194_304,
        micro_batch: int = 1,
        seed: int = 0,
        split: str = "train",
        validation_split: str | None = None,
        validation_sequences: int = 16,
    ) -> None:
        super().__init__()
        self.sequence_length, self.tokens_per_step = sequence_length, tokens_per_step
        self.micro_batch, self.seed = micro_batch, seed
        self.validation_sequences = validation_sequences
        self.corpus = TokenCorpus(corpus, split)
        self.plan = self._plan_of(self.corpus, tokens_per_step)
        self.held_out: TokenCorpus | None = None
        self.held_out_plan: StepPlan | None = None
        if validation_split is not None:
            if validation_sequences < 1:
                raise UserError(
                    f"data.validation_sequences is {validation_sequences}; it must be at least 1, or leave "
                    f"validation_split out"
                )
            self.held_out = TokenCorpus(corpus, validation_split)
            self.held_out_plan = self._plan_of(self.held_out, sequence_length)

    def _plan_of(self, corpus: TokenCorpus, tokens_per_step: int) -> StepPlan:
        try:
            return StepPlan(
                corpus.starts,
                sequence_length=self.sequence_length,
                tokens_per_step=tokens_per_step,
                seed=self.seed,
                fingerprint=corpus.fingerprint,
            )
        except UserError as error:
            raise UserError(f"corpus {corpus.name!r}: {error}") from None

    def setup(self, stage: str) -> None:
        """Check the corpus against the model's tokenizer and set the trainer's gradient accumulation.

        Raises:
            UserError: another tokenizer made the corpus, the step does not divide over the devices, or the trainer
                was told another accumulation.
        """
        assert self.trainer is not None
        self._check_tokenizer()
        if self.held_out is None:
            self.trainer.limit_val_batches = 0
        if stage != "fit":
            return
        replicas, _ = self._replicas()
        needed = self.plan.micro_batches(replicas=replicas, micro_batch=self.micro_batch)
        asked = self.trainer.accumulate_grad_batches
        if asked not in (1, needed):
            raise UserError(
                f"trainer.accumulate_grad_batches is {asked}, but {self.tokens_per_step} tokens per step need {needed} "
                f"micro-batches of {self.micro_batch} x {self.sequence_length} on {replicas} device(s); leave it out"
            )
        self.trainer.accumulate_grad_batches = needed

    def _check_tokenizer(self) -> None:
        module = getattr(self.trainer, "lightning_module", None)
        name = getattr(module, "tokenizer_name", None)
        if name is None:
            return
        from lit_long.data.tokenizer import load_tokenizer, tokenizer_fingerprint

        self.corpus.check_tokenizer(tokenizer_fingerprint(load_tokenizer(name)), name)

    def _replicas(self) -> tuple[int, int]:
        """Number of data-parallel ranks, and this one's."""
        assert self.trainer is not None
        kwargs = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None) or {}
        return int(kwargs.get("num_replicas", 1)), int(kwargs.get("rank", 0))

    def train_dataloader(self) -> StepLoader:
        """Micro-batches of this rank for the whole run."""
        assert self.trainer is not None
        replicas, rank = self._replicas()
        return StepLoader(
            self.corpus,
            self.plan,
            steps=self.trainer.max_steps,
            micro_batch=self.micro_batch,
            rank=rank,
            replicas=replicas,
        )

    def val_dataloader(self) -> HeldOutLoader | list[Any]:
        """The held-out sequences of this rank; none without a validation split."""
        if self.held_out is None or self.held_out_plan is None:
            return []
        replicas, rank = self._replicas()
        return HeldOutLoader(
            self.held_out,
            self.held_out_plan,
            sequences=self.validation_sequences,
            micro_batch=self.micro_batch,
            rank=rank,
            replicas=replicas,
        )

    def state_dict(self) -> dict[str, Any]:
        """Identity of the data order, kept in checkpoints."""
        return {"plan": self.plan.identity}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on another data order.

        Raises:
            UserError: corpus, lengths or seed are not those of the checkpoint.
        """
        if state_dict["plan"] != self.plan.identity:
            raise UserError(
                "the checkpoint was trained on another data order: corpus, sequence_length, tokens_per_step or seed "
                "differ. To start a new stage, export it (lit-long export) and set model: to that folder"
            )

    def describe(self) -> dict[str, Any]:
        """Plain facts about the data for the checkpoint and the model card."""
        return {
            "tokens_per_step": self.tokens_per_step,
            "sequence_length": self.sequence_length,
            "micro_batch": self.micro_batch,
            "seed": self.seed,
            "data": {
                "name": self.corpus.name,
                "tokens": self.corpus.tokens,
                "documents": self.corpus.documents,
                "license": self.corpus.info.get("license"),
            },
        }
