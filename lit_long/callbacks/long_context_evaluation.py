"""How well the model uses its context, measured while it trains."""

import time
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_long.callbacks.evaluation_log import EvaluationLog, Found
from lit_long.callbacks.live_scorer import LiveScorer
from lit_long.data.corpus import TokenCorpus
from lit_long.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from lit_long.errors import UserError
from lit_long.evaluation.position_loss import PositionLoss, summarise
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.evaluation.retrieval.in_run import ProbeSet, default_lengths, make_probe_set, scalars
from lit_long.evaluation.retrieval.tasks import TASKS as RETRIEVAL
from lit_long.evaluation.truncation import ContextGain, ContextPlan, plan_contexts, summarise_contexts, target_nll
from lit_long.evaluation.windows import Windows, take_windows

Task = Literal[
    "loss", "context_gain", "passkey", "needle", "multi_key", "multi_value", "multi_query", "variable_tracking",
    "common_words", "frequent_word",
]  # fmt: skip


class LongContextEvaluation(Callback):
    """Measures the model in training on held-out long documents, every so many steps or tokens.

    - ``loss``: loss by position on windows of ``length`` tokens, split at the native length;
    - ``context_gain``: the last tokens of each window predicted again from shorter contexts: does the full window beat
      the best truncation of it? About twice the work of ``loss``, which it includes;
    - ``passkey``, ``needle``, ``multi_key``, ...: what is found in held-out text, by length (``lit-long retrieve``),
      decided by one forward pass a probe: share of exact answers, and the loss of the answers, which moves first.

    Every evaluation reads the same windows. Numbers go to the trainer's loggers as ``eval/...`` and to
    ``evaluation.jsonl`` in the logger's folder, with plots beside it (and in loggers that take images); a
    ``ModelCheckpoint`` may monitor them. It runs under any strategy whose ranks hold the model whole or sharded with
    FSDP2, context parallelism included, and training goes on as if it had not been there: the same losses to the last
    bit.

    Args:
        every_n_steps: optimizer steps between evaluations; or give ``every_n_tokens``.
        every_n_tokens: training tokens between evaluations, for data with ``tokens_per_step``.
        tasks: what to measure.
        corpus: token corpus with the documents; default: the held-out documents of the datamodule.
        split: split of ``corpus``.
        length: tokens of a window; default: the datamodule's sequence length.
        windows: windows of each corpus; fewer where its documents hold fewer.
        seed: of the windows' places.
        at_start: measure the model before its first step, too.
        at_end: measure the trained model, too.
        retrieval_lengths: tokens of the prompts of retrieval tasks; default: ``length`` and half of it.
        retrieval_probes: probes of each retrieval task, length and depth (three depths).
        tokenizer: Hub id or folder, for retrieval tasks; default: the module's.
        max_tokens: refuse to read more input tokens than this in one evaluation.
        logit_chunk: tokens whose logits exist at one time.

    Raises:
        UserError: no interval or both, no corpus, documents shorter than a window, or more work than ``max_tokens``.
    """

    def __init__(
        self,
        *,
        every_n_steps: int | None = None,
        every_n_tokens: int | None = None,
        tasks: Sequence[Task] = ("loss",),
        corpus: str | None = None,
        split: str = "held_out",
        length: int | None = None,
        windows: int = 16,
        seed: int = 0,
        at_start: bool = True,
        at_end: bool = True,
        retrieval_lengths: Sequence[int] | None = None,
        retrieval_probes: int = 2,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
        logit_chunk: int = 1024,
    ) -> None:
        every = every_n_steps if every_n_steps is not None else every_n_tokens
        if (every_n_steps is None) == (every_n_tokens is None) or every is None or every < 1:
            raise UserError("LongContextEvaluation: give every_n_steps or every_n_tokens, at least 1, and not both")
        if not tasks or set(tasks) - {"loss", "context_gain", *RETRIEVAL}:
            raise UserError(
                f"LongContextEvaluation: tasks is {list(tasks)}; it may hold loss, context_gain, {', '.join(RETRIEVAL)}"
            )
        if retrieval_probes < 1 or any(each < 64 for each in retrieval_lengths or ()):
            raise UserError(
                f"LongContextEvaluation: retrieval_probes is {retrieval_probes}, at least 1; retrieval_lengths "
                f"{list(retrieval_lengths or ())}, at least 64"
            )
        self.every_n_steps, self.every_n_tokens, self.tasks = every_n_steps, every_n_tokens, tuple(tasks)
        self.corpus, self.split, self.length, self.windows, self.seed = corpus, split, length, windows, seed
        self.at_start, self.at_end, self.max_tokens, self.logit_chunk = at_start, at_end, max_tokens, logit_chunk
        self.retrieval_lengths, self.retrieval_probes = retrieval_lengths, retrieval_probes
        self.tokenizer = tokenizer
        self._sets: dict[str, tuple[Windows, ContextPlan | None]] = {}
        self._probes: dict[str, ProbeSet] = {}
        self._native = 0
        self._log: EvaluationLog | None = None
        self._measured = -1

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cut the windows, and say what an evaluation costs.

        Raises:
            UserError: see the class.
        """
        if any(type(module).__name__ == "FullyShardedDataParallel" for module in pl_module.modules()):
            raise UserError("LongContextEvaluation: FSDP1 cannot be evaluated in a run; use strategy: context_parallel")
        data = getattr(trainer, "datamodule", None)
        length = self.length or getattr(data, "sequence_length", None)
        if length is None:
            raise UserError("LongContextEvaluation: give length, the tokens of a window; the data does not say it")
        if self.every_n_tokens is not None and not hasattr(data, "tokens_per_step"):
            raise UserError("LongContextEvaluation: the data has no tokens_per_step; give every_n_steps instead")
        self._native = min(int(getattr(pl_module, "native_length", None) or length), length)
        self._sets, self._probes = {}, {}
        retrieval = [task for task in self.tasks if task in RETRIEVAL]
        for name, corpus in self._corpora(data).items():
            if retrieval:
                self._probes[name] = self._make_probes(corpus, retrieval, length, pl_module)
            if len(retrieval) == len(self.tasks):
                continue
            windows = take_windows(corpus, length, self.windows, self.seed)
            plan = plan_contexts(windows, self._native) if "context_gain" in self.tasks else None
            self._sets[name] = (windows, plan)
        tokens = sum(len(w.ids) * (w.length + (plan.extra_tokens if plan else 0)) for w, plan in self._sets.values())
        tokens += sum(probes.tokens for probes in self._probes.values())
        if self.max_tokens is not None and tokens > self.max_tokens:
            raise UserError(
                f"LongContextEvaluation: an evaluation would read {tokens:,} tokens and max_tokens is "
                f"{self.max_tokens:,}; take fewer windows, a shorter length, or leave context_gain out"
            )
        for name, (windows, _) in self._sets.items():
            pl_module.print(
                f"evaluation in training{f' ({name})' if len(self._sets) > 1 else ''}: loss on "
                f"{len(windows.ids)} windows of {length:,} tokens from {windows.used_documents} held-out document(s)"
                + (f", {windows.asked} asked for" if windows.asked > len(windows.ids) else "")
            )
        pl_module.print(
            f"evaluation in training: {', '.join(self.tasks)}; "
            + "".join(f"{len(probes.probes)} retrieval probes; " for probes in self._probes.values())
            + f"{tokens:,} input tokens each time"
        )

    def _make_probes(self, corpus: Any, tasks: Sequence[str], length: int, pl_module: LightningModule) -> ProbeSet:
        name = self.tokenizer or getattr(pl_module, "tokenizer_name", None)
        if not name:
            raise UserError(f"LongContextEvaluation: {', '.join(tasks)} need a tokenizer, and the module names none")
        tokenizer = load_tokenizer(str(name))
        corpus.check_tokenizer(tokenizer_fingerprint(tokenizer), str(name))
        lengths = tuple(self.retrieval_lengths or default_lengths(length))
        haystack = Haystack.of_corpus(corpus, tokenizer)
        return make_probe_set(haystack, tasks, lengths, samples=self.retrieval_probes, seed=self.seed)

    def _corpora(self, data: Any) -> dict[str, Any]:
        if self.corpus is not None:
            return {"": TokenCorpus(self.corpus, self.split)}
        parts = getattr(data, "held_out", {})
        unique = {str(part.documents.corpus.path): (name, part.documents.corpus) for name, part in parts.items()}
        if not unique:
            raise UserError(
                "LongContextEvaluation: no held-out documents; give corpus (and split), or data.validation_split"
            )
        return dict(unique.values()) if len(unique) > 1 else {"": next(iter(unique.values()))[1]}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the model as it is before the first step."""
        folder = trainer.log_dir or trainer.default_root_dir  # asked by every rank, because rank 0 broadcasts it
        self._log = EvaluationLog(folder, trainer.global_step) if trainer.is_global_zero else None
        self._measured = trainer.global_step
        if self.at_start and trainer.global_step == 0:
            self._run(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure after the optimizer step that completes an interval."""
        if trainer.global_step != self._measured and self._due(trainer):
            values = self._run(trainer, pl_module)
            pl_module.log_dict(values, on_step=True, on_epoch=False, logger=False)  # for a ModelCheckpoint to monitor

    def _due(self, trainer: Trainer) -> bool:
        step = trainer.global_step
        if self.every_n_steps is not None:
            return step % self.every_n_steps == 0
        per_step = int(trainer.datamodule.tokens_per_step)  # type: ignore[attr-defined]
        assert self.every_n_tokens is not None
        return step * per_step // self.every_n_tokens > (step - 1) * per_step // self.every_n_tokens

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the trained model."""
        if self.at_end and trainer.global_step != self._measured:
            self._run(trainer, pl_module)

    def _run(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        began = time.monotonic()
        self._measured = trainer.global_step
        found: dict[str, tuple[PositionLoss, ContextGain | None]] = {}
        for name, (windows, plan) in self._sets.items():
            nll = LiveScorer(trainer, pl_module, self.logit_chunk)
            full = nll(windows.ids)
            gain = summarise_contexts(target_nll(nll, windows, plan, full), windows, plan) if plan else None
            found[name] = (summarise(full, windows, self._native), gain)
        values = {key: value for name, pair in found.items() for key, value in _values(name, *pair).items()}
        rows = {
            name: probes.rows(LiveScorer(trainer, pl_module, self.logit_chunk).scores)
            for name, probes in self._probes.items()
        }
        for name, each in rows.items():
            values |= {_prefix(name) + key: value for key, value in scalars(each).items()}
        if self._log is not None:
            self._log.write(trainer, Found(found, rows), values, time.monotonic() - began)
            shown = ", ".join(f"{key.removeprefix('eval/')} {value:.4f}" for key, value in values.items())
            pl_module.print(f"evaluation after step {trainer.global_step}: {shown}")
        return values


def _prefix(name: str) -> str:
    return f"eval/{name}/" if name else "eval/"


def _values(name: str, position: PositionLoss, gain: ContextGain | None) -> dict[str, float]:
    """Scalars for loggers, nats per token."""
    prefix = _prefix(name)
    values = {"loss": position.overall.mean, "loss_within_native": position.within_native.loss.mean}
    if position.beyond_native is not None:
        values["loss_beyond_native"] = position.beyond_native.loss.mean
    if gain is not None:
        values["full_minus_best_truncation"] = gain.full_minus_best.mean
        if gain.prefix_gain is not None:
            values["far_prefix_gain"] = gain.prefix_gain.mean
    return {prefix + key: value for key, value in values.items()}
