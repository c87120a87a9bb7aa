"""InstructData: conversations, short and long, and pretraining text, in the order of the step plan."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from lit_long.data.corpus import TokenCorpus
from lit_long.data.documents import DocumentSet, Selection
from lit_long.data.instruct.batch import HeldOutChats, weighted_batch
from lit_long.data.instruct.build import Counts, InstructSource, build_store, default_cache, store_folder
from lit_long.data.instruct.chat import ChatFormat
from lit_long.data.instruct.progress import shown
from lit_long.data.instruct.store import ChatCorpus
from lit_long.data.instruct.weights import TargetWeights, Weighting
from lit_long.data.loader import StepLoader
from lit_long.data.mixture import Mixture, MixtureSource, Part, mixture_weights
from lit_long.data.packing.row import Row
from lit_long.data.packing.windows import PartStream
from lit_long.data.planned import PlannedData
from lit_long.data.schedule import LengthSchedule, Stage
from lit_long.data.tokenizer import load_tokenizer
from lit_long.errors import UserError

InputLoss = Literal["none", "long", "all"]


class InstructData(PlannedData):
    """Instruction tuning on chat data: short examples packed, long ones one per sequence, pretraining text beside them.

    Examples are rendered with the model's own chat template and tokenised once, into ``cache``. Only what the assistant
    writes is a target (its stop tokens included), unless ``input_loss`` says otherwise. Examples never see each other.
    The order is a step plan as in ``PretrainData``: resuming is exact, and the number of devices or the micro-batch
    change nothing about what is learned.

    Args:
        sources: name -> source.
        weights: name -> share of the tokens, in any unit; default: each source's size in tokens.
        sequence_length: tokens per sequence (16,384 in the paper).
        tokens_per_step: tokens per optimizer step, padding included, over all devices and micro-batches.
        micro_batch: sequences that a device takes at once.
        input_loss: also predict the input: of ``long`` sources (the paper's Table 9), of ``all``, or of ``none``.
        input_loss_weight: what a target of the input counts beside one of the assistant's.
        loss_weighting: ``token`` (every target counts the same), ``sample`` (every example), or ``sqrt`` (in between:
            an example counts by the square root of its targets).
        padding: pad sequences to their length, as the paper; else they are as long as their examples: same loss, less
            work.
        tokenizer: Hub id or folder; default: the model's.
        chat_template: file with a Jinja template; default: the tokenizer's.
        held_out_share: share of the examples (0 to 0.5) that is validated on, chosen by the hash of what groups them
            (:class:`InstructSource`: the document, else their content).
        validation_sequences: packed sequences of each source at most, the same at each validation.
        cache: folder of the tokenised examples; default: ``lit_long/instruct`` in the user's cache folder.
        max_epochs: passes over a source that are fine.
        on_repeat: what to do when a source would be seen more often: say so, or refuse.
        balance: deal the sequences of a step to devices and micro-batches evenly by cost.
        seed: seed of the data order.
        workers: threads that read and pack ahead of the training.
        ledger: folder in which each delivered example is noted.
        allow_changed_data: resume although the data is not that of the checkpoint.

    Raises:
        UserError: see :class:`InstructSource`; numbers out of their range; examples that are too long or cannot be
            masked, where that is an error.
    """

    def __init__(
        self,
        *,
        sources: dict[str, InstructSource],
        sequence_length: int,
        tokens_per_step: int,
        weights: dict[str, float] | None = None,
        micro_batch: int = 1,
        input_loss: InputLoss = "none",
        input_loss_weight: float = 1.0,
        loss_weighting: Weighting = "token",
        padding: bool = False,
        tokenizer: str | None = None,
        chat_template: str | None = None,
        held_out_share: float = 0.0,
        validation_sequences: int = 16,
        cache: str | None = None,
        max_epochs: float = 4.0,
        on_repeat: Literal["warn", "error"] = "warn",
        balance: bool = True,
        seed: int = 0,
        workers: int = 1,
        ledger: str | None = None,
        allow_changed_data: bool = False,
    ) -> None:
        super().__init__()
        if not sources:
            raise UserError("data.sources is empty; name at least one source with its path")
        for name, source in sources.items():
            source.check(name)
        if not 0 <= held_out_share <= 0.5:
            raise UserError(f"data.held_out_share is {held_out_share:g}; it must be between 0 and 0.5")
        if input_loss_weight < 0 or validation_sequences < 1 or workers < 0:
            raise UserError(
                f"data: input_loss_weight is {input_loss_weight} and workers {workers}, they must be 0 or more; "
                f"validation_sequences is {validation_sequences}, it must be at least 1"
            )
        self.sources, self.seed, self.balance, self.workers = sources, seed, balance, workers
        self.schedule = LengthSchedule((Stage(sequence_length=sequence_length),))
        self.sequence_length, self.tokens_per_step, self.micro_batch = sequence_length, tokens_per_step, micro_batch
        self.packing, self.document_mask = "best_fit", True
        self.ledger, self.allow_changed_data = ledger, allow_changed_data
        self.input_loss, self.input_loss_weight, self.loss_weighting = input_loss, input_loss_weight, loss_weighting
        self.padding, self.validation_sequences, self.held_out_share = padding, validation_sequences, held_out_share
        self.tokenizer_name, self.chat_template = tokenizer, chat_template
        self.cache = Path(cache) if cache is not None else default_cache()
        self.mixture = Mixture(
            sources={name: MixtureSource(corpus=name) for name in sources},
            weights=weights,
            max_epochs=max_epochs,
            on_repeat=on_repeat,
        )
        mixture_weights(self.mixture)
        self.schedule.spans(steps=-1, tokens_per_step=tokens_per_step, micro_batch=micro_batch)  # do they divide?
        self._form: ChatFormat | None = None
        self._pad = 0

    # -- making and opening the stores --------------------------------------------------------------------------------
    def form(self, tokenizer: str | None = None) -> ChatFormat:
        """The chat format of the model's (or the given) tokenizer.

        Raises:
            UserError: no tokenizer is known, it has no chat template, or the template's file is not there.
        """
        if self._form is None:
            module = getattr(self.trainer, "lightning_module", None) if self.trainer is not None else None
            name = self.tokenizer_name or tokenizer or getattr(module, "tokenizer_name", None)
            if name is None:
                raise UserError("data.tokenizer: no tokenizer is known; give the Hub id or folder of the model's")
            template = None
            if self.chat_template is not None:
                if not Path(self.chat_template).is_file():
                    raise UserError(f"data.chat_template: there is no file {self.chat_template}")
                template = Path(self.chat_template).read_text(encoding="utf-8")
            self._form = ChatFormat(load_tokenizer(name), template)
        return self._form

    def prepare_data(self) -> None:
        """Tokenise what is not in the cache yet; on one process of each machine."""
        for name, source in self.sources.items():
            if source.path is not None:
                self.build(name)

    def build(self, name: str) -> tuple[Path, Counts]:
        """Tokenise one source of chats; returns the store's folder and what became of the rows."""
        source, form = self.sources[name], self.form()
        options: dict[str, Any] = {"limit": self.sequence_length, "held_out_share": self.held_out_share}
        folder = store_folder(self.cache, name, source, form, **options)
        with shown(name) as progress:
            return folder, build_store(folder, name, source, form, progress=progress, **options)

    def setup(self, stage: str) -> None:
        """Open the stores, lay out the run and set the trainer's accumulation.

        Raises:
            UserError: see :meth:`lit_long.data.planned.PlannedData.setup`.
        """
        assert self.trainer is not None
        if not self.parts:
            self.open_stores()
        super().setup(stage)

    def open_stores(self) -> None:
        """Open the stores, made if they are not there, and divide the tokens among the sources."""
        parts, sizes = [], {}
        for name, source in self.sources.items():
            corpus: Any
            if source.corpus is not None:
                corpus = TokenCorpus(source.corpus, source.split)
            else:
                folder, counts = self.build(name)
                corpus = ChatCorpus(folder / "train")
                self._tell(name, counts)
                if (folder / "held_out").is_dir():
                    held = DocumentSet(ChatCorpus(folder / "held_out"), Selection())
                    self.held_out[name] = Part(name, "all", held, 1.0)
            documents = DocumentSet(corpus, Selection())
            sizes[name] = float(documents.tokens)
            parts.append(Part(name, "all", documents, 0.0, single=source.long))
        shares = mixture_weights(self.mixture) or sizes
        whole = sum(shares.values())
        self.parts = [replace(part, share=shares[part.name] / whole) for part in parts if shares[part.name]]
        corpora: list[Any] = [part.documents.corpus for part in self.parts]
        self._pad = int(corpora[0].info["tokenizer"]["eos_token_id"])

    def _tell(self, name: str, counts: Counts) -> None:
        if self.trainer is None or not self.trainer.is_global_zero:
            return
        done = [f"{number:,} {how}" for how, number in counts.changed.items()]
        done += [f"{number:,} left out ({why})" for why, number in counts.left_out.items()]
        module: Any = self.trainer.lightning_module
        module.print(
            f"{name}: {counts.rows:,} rows, {counts.examples:,} examples to train on, {counts.held_out:,} held out"
            + "".join(f", {text}" for text in done)
        )

    # -- loaders ------------------------------------------------------------------------------------------------------
    @property
    def target_weights(self) -> TargetWeights:
        """What each target of the parts counts."""
        inputs = []
        for part in self.parts:
            counted = self.input_loss == "all" or (self.input_loss == "long" and self.sources[part.name].long)
            inputs.append(self.input_loss_weight if counted else 0.0)
        return TargetWeights(self.parts, inputs, self.loss_weighting)

    def train_dataloader(self) -> StepLoader:
        """Micro-batches of this rank for the whole run."""
        assert self.trainer is not None
        assert self.plan is not None
        weights = self.target_weights

        def build(rows: Sequence[Row], step_weight: float) -> dict[str, Any]:
            return weighted_batch(rows, weights, step_weight, pad_id=self._pad, padded=self.padding)

        return StepLoader(
            self.plan,
            steps=self.trainer.max_steps,
            dealing=self.dealing,
            workers=self.workers,
            ledger=self.ledger,
            on_step=self._count,
            step_weight=weights.step,
            build=build,
        )

    def val_dataloader(self) -> list[HeldOutChats]:
        """Held-out examples, a loader a source; the assistant's targets count, one like the other."""
        found = []
        for part in self.held_out.values():
            stream = PartStream(
                part.documents, 0, self.sequence_length, self.sources[part.name].long, seed=0, before=None
            )
            rows: list[Row] = []
            while len(rows) < self.validation_sequences and (row := stream.row(len(rows))).epoch == 0:
                rows.append(row)
            loader = HeldOutChats(
                rows,
                TargetWeights([part], [0.0]),
                micro_batch=self.micro_batch,
                rank=self.dealing.rank,
                replicas=self.dealing.replicas,
                pad_id=self._pad,
            )
            found.append(loader)
        return found

    def describe(self) -> dict[str, Any]:
        """Plain facts about the data for the checkpoint and the model card."""
        about, form = super().describe(), self.form()
        if self.chat_template is not None:
            about["chat_template"] = form.template
        if form.stop:
            about["stop_token_id"] = int(form.tokenizer.convert_tokens_to_ids(form.stop))
        return about | {
            "input_loss": self.input_loss,
            "input_loss_weight": self.input_loss_weight,
            "loss_weighting": self.loss_weighting,
        }
