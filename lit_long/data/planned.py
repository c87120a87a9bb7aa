"""PlannedData: what DataModules over a step plan share: checks, accumulation, counting, resuming, reports."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningDataModule

from lit_long.data.balance import imbalance, in_order, row_costs
from lit_long.data.loader import Dealing
from lit_long.data.mixture import Mixture, Part
from lit_long.data.mixture_report import MixtureReport, TokenCounts, mixture_report
from lit_long.data.packing import Packing
from lit_long.data.packing.row import Row
from lit_long.data.plan import StepPlan, accumulation
from lit_long.data.schedule import LengthSchedule, StageSpan
from lit_long.data.stage_switch import StageSwitch
from lit_long.errors import UserError


class PlannedData(LightningDataModule):
    """A DataModule whose order of training is a :class:`lit_long.data.StepPlan`.

    A subclass sets the attributes below and makes the plan (``_plan``) and the loaders.

    Attributes:
        parts: parts of the mixture, in the order of the plan.
        held_out: parts to validate on, by name.
        mixture: for ``max_epochs`` and ``on_repeat``.
        schedule: stages of sequence length.
        sequence_length: the longest.
        spans: stages of the run; known after ``setup``.
        plan: the order; known after ``setup`` at the latest.
    """

    mixture: Mixture
    schedule: LengthSchedule
    sequence_length: int
    tokens_per_step: int
    micro_batch: int
    packing: Packing
    seed: int
    document_mask: bool
    balance: bool
    workers: int
    ledger: str | None
    allow_changed_data: bool

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Part] = []
        self.held_out: dict[str, Part] = {}
        self.spans: tuple[StageSpan, ...] = ()
        self.plan: StepPlan | None = None
        self.counts: TokenCounts | None = None
        self.dealing = Dealing()

    def _plan(self, steps: int) -> None:
        """Lay out a run of ``steps`` optimizer steps."""
        self.spans = self.schedule.spans(
            steps=steps, tokens_per_step=self.tokens_per_step, micro_batch=self.micro_batch
        )
        self.plan = StepPlan(
            self.parts,
            spans=self.spans,
            tokens_per_step=self.tokens_per_step,
            packing=self.packing,
            seed=self.seed,
        )

    @property
    def validation_names(self) -> list[str]:
        """Names of the held-out sources, in the order of the validation loaders."""
        return list(self.held_out)

    def accumulation(self, step: int) -> int:
        """Micro-batches of each data-parallel rank in optimizer step ``step``."""
        assert self.plan is not None
        return accumulation(self.plan.stage(step), self.dealing.replicas)

    def setup(self, stage: str) -> None:
        """Check the corpora against the model's tokenizer, lay out the run and set the trainer's accumulation.

        Raises:
            UserError: another tokenizer made a corpus, the step does not divide over the devices, a source is repeated
                too often, or the trainer was told another accumulation.
        """
        assert self.trainer is not None
        self._check_tokenizer()
        if not self.held_out:
            self.trainer.limit_val_batches = 0
        replicas, rank = self._replicas()
        self.dealing = Dealing(rank, replicas, self._quadratic(), self.document_mask)
        if stage != "fit":
            return
        if self.trainer.max_steps < 1:
            raise UserError("trainer.max_steps is not set; a run has a fixed number of optimizer steps, e.g. 100000")
        self._plan(self.trainer.max_steps)
        assert self.plan is not None
        needed = max(accumulation(span, replicas) for span in self.spans)
        asked = self.trainer.accumulate_grad_batches
        if asked not in (1, needed):
            raise UserError(
                f"trainer.accumulate_grad_batches is {asked}, but {self.tokens_per_step} tokens per step need {needed} "
                f"micro-batches of {self.micro_batch} x {self.sequence_length} on {replicas} device(s); leave it out"
            )
        StageSwitch.attach(self.trainer, self)
        self.counts = TokenCounts(self.plan, self._native_length())
        self._check_repeats()

    def _quadratic(self) -> float | None:
        """Attention's cost of a pair of tokens by a token's linear work, from the model where it is known."""
        if not self.balance:
            return None
        hidden = getattr(getattr(self.trainer, "lightning_module", None), "hidden_size", None) or 4096
        return 1 / (6 * hidden)

    def _native_length(self) -> int | None:
        return getattr(getattr(self.trainer, "lightning_module", None), "native_length", None)

    def _check_repeats(self) -> None:
        assert self.plan is not None
        assert self.trainer is not None
        for part, tokens in zip(self.plan.parts, self.plan.planned_tokens(self.trainer.max_steps), strict=True):
            epochs = tokens / part.documents.tokens
            if epochs > self.mixture.max_epochs:
                message = (
                    f"source {part.label!r} would be seen {epochs:.1f} times: {tokens:,.0f} tokens are drawn from "
                    f"{part.documents.tokens:,}, and max_epochs is {self.mixture.max_epochs:g}. Lower its weight (or "
                    f"long_upsample), add documents, train less, or raise mixture.max_epochs"
                )
                if self.mixture.on_repeat == "error":
                    raise UserError(message)
                if self.trainer.is_global_zero:
                    from lightning.pytorch.utilities import rank_zero_warn

                    rank_zero_warn(message)

    def _check_tokenizer(self) -> None:
        module = getattr(self.trainer, "lightning_module", None)
        name = getattr(module, "tokenizer_name", None)
        if name is None:
            return
        from lit_long.data.tokenizer import load_tokenizer, tokenizer_fingerprint

        fingerprint = tokenizer_fingerprint(load_tokenizer(name))
        for part in [*self.parts, *self.held_out.values()]:
            corpus: Any = part.documents.corpus
            corpus.check_tokenizer(fingerprint, name)

    def _replicas(self) -> tuple[int, int]:
        """Number of data-parallel ranks, and this one's."""
        assert self.trainer is not None
        kwargs = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None) or {}
        return int(kwargs.get("num_replicas", 1)), int(kwargs.get("rank", 0))

    def _count(self, step: int, rows: Sequence[Row]) -> None:
        assert self.counts is not None
        self.counts.add(rows)
        self._delivered = step + 1

    def state_dict(self) -> dict[str, Any]:
        """Identity of the data order, where it is, and what was delivered."""
        assert self.plan is not None
        step = getattr(self, "_delivered", 0)
        state: dict[str, Any] = {"plan": self.plan.identity, "step": step, "anchors": self.plan.anchors(step)}
        return state | {"counts": self.counts.state() if self.counts is not None else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the checkpoint was; refuse to on another data order.

        Raises:
            UserError: corpus, mixture, schedule, packing or seed are not those of the checkpoint.
        """
        assert self.plan is not None
        if state_dict["plan"] == self.plan.identity:
            self.plan.restore(state_dict["anchors"])
        elif not self.allow_changed_data:
            raise UserError(
                "the checkpoint was trained on another data order: corpus, mixture, schedule, packing, "
                "tokens_per_step or seed differ. Restore them; or go on with the changed data at the same step "
                "(documents may be seen again or never): data.allow_changed_data: true; or start a new stage: export "
                "the checkpoint (lit-long export) and set model: to that folder"
            )
        self._delivered = state_dict["step"]
        if self.counts is not None and state_dict["counts"] is not None:
            self.counts.load(state_dict["counts"])

    def report(self) -> MixtureReport:
        """Asked and achieved tokens of the run."""
        assert self.plan is not None
        assert self.trainer is not None
        return mixture_report(self.plan, self.trainer.max_steps, self.counts)

    def imbalance(self, steps: int = 20) -> tuple[float, float]:
        """Predicted time of steps over a perfectly even one, as rows come and as they are dealt (mean of ``steps``)."""
        assert self.plan is not None
        before, after, dealing = 0.0, 0.0, self.dealing
        for step in range(steps):
            rows, size = self.plan.step(step), self.plan.stage(step).micro_batch
            costs = row_costs(rows, dealing.quadratic or 0.0, document_mask=self.document_mask)
            before += imbalance(costs, in_order(len(rows), replicas=dealing.replicas, micro_batch=size))
            after += imbalance(costs, dealing.deal(self.plan, step))
        return before / steps, after / steps

    def _mix(self) -> list[dict[str, Any]]:
        """Asked and trained tokens of each source until now."""
        trained = [int(row.sum()) for row in self.counts.tokens] if self.counts is not None else [0] * len(self.parts)
        corpora: list[Any] = [part.documents.corpus for part in self.parts]
        return [
            {
                "source": part.label,
                "share": float(part.share),
                "available": int(part.documents.tokens),
                "trained": done,
                "license": corpus.info.get("license"),
            }
            for part, corpus, done in zip(self.parts, corpora, trained, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """Plain facts about the data for the checkpoint and the model card."""
        corpora: dict[str, Any] = {str(p.documents.corpus.path): p.documents.corpus for p in self.parts}
        licenses = {str(c.info["license"]) for c in corpora.values() if c.info.get("license")}
        return {
            "tokens_per_step": self.tokens_per_step,
            "sequence_length": self.sequence_length,
            "micro_batch": self.micro_batch,
            "seed": self.seed,
            "packing": self.packing,
            "document_mask": self.document_mask,
            "stages": [[span.first_step, span.sequence_length] for span in self.spans],
            "mixture": {part.label: part.share for part in self.parts},
            "mix": self._mix(),
            "data": {
                "name": ", ".join(sorted({c.name for c in corpora.values()})),
                "tokens": sum(part.documents.tokens for part in self.parts),
                "documents": sum(len(part.documents) for part in self.parts),
                "license": ", ".join(sorted(licenses)) or None,
            },
        }
