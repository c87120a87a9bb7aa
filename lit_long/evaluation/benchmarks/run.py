"""Run a plan on several models, one in memory at a time; a part that cannot run does not stop the others.

A missing data set or classifier, or a prompt cap beyond one model's window, is kept as the reason, and everything
that did run stays in its rows and in the report. Only a run in which nothing worked is an error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long.evaluation.battery import Loaded, NamedModel
from lit_long.evaluation.benchmarks.plan import Options, Plan
from lit_long.evaluation.harness.run import run_lm_eval
from lit_long.evaluation.harness.score import HarnessResult
from lit_long.evaluation.long_qa.prompts import chat_frame
from lit_long.evaluation.long_qa.run import Asked, Progress, ask
from lit_long.evaluation.long_qa.tasks import Question
from lit_long.evaluation.long_qa.zero_scrolls import write_submission
from lit_long.evaluation.raw_store import key_of, model_key
from lit_long.evaluation.safety.judges import TOXIGEN_CLASSIFIER, Judge, ToxicityClassifier, Vader
from lit_long.evaluation.safety.prompts import bold_prompts, toxigen_prompts
from lit_long.evaluation.safety.red_team import run_red_team
from lit_long.evaluation.safety.run import SafetyScore, run_safety


@dataclass
class ModelBenchmarks:
    """Everything that was run on one model."""

    name: str
    path: str
    source: dict[str, Any]
    long: dict[tuple[str, int], Asked] = field(default_factory=dict)
    """Rows by task and prompt cap."""
    short: HarnessResult = field(default_factory=HarnessResult)
    safety: list[SafetyScore] = field(default_factory=list)
    red_team: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Why a part was not run, by its name."""
    files: list[Path] = field(default_factory=list)


def run_benchmarks(
    models: Sequence[NamedModel],
    plan: Plan,
    options: Options,
    *,
    load: Callable[[str], Loaded],
    load_tokenizer: Callable[[str], Any],
    output: Path,
    progress: Progress,
) -> list[ModelBenchmarks]:
    """Run a plan on every model.

    Args:
        models: the first one is the reference of differences.
        plan: from :func:`lit_long.evaluation.benchmarks.plan.make_plan`.
        options: how.
        load: usually ``lit_long.model.load_for_inference``.
        load_tokenizer: a model's tokenizer by its path.
        output: rows go to ``<output>/raw/<model>/``.
        progress: hears about models and questions.

    Raises:
        UserError: a model cannot be loaded, or nothing at all could be run.
    """
    data = _Data(plan, options)
    results = []
    for named in models:
        progress.note(f"{named.name}: loading {named.path}")
        loaded = load(named.path)
        tokenizer = load_tokenizer(named.path)
        loaded.model.to(torch.device(options.device))
        result = ModelBenchmarks(named.name, named.path, loaded.source)
        _Run(loaded.model, tokenizer, plan, options, data, output, progress, result).all(
            # another tokenizer (--tokenizer) makes other prompts of the same weights
            key_of([model_key(named.path), str(getattr(tokenizer, "name_or_path", ""))])
        )
        results.append(result)
        del loaded  # frees the memory before the next model comes
    if not any(r.long or r.short.scores or r.safety or r.red_team for r in results):
        reasons = {f"{what}: {why}" for r in results for what, why in (r.failed | r.short.failed).items()}
        raise UserError("Nothing could be run. " + " ".join(sorted(reasons)))
    return results


class _Data:
    """Questions and judges, read once for all models; a failure is remembered and said for each."""

    def __init__(self, plan: Plan, options: Options) -> None:
        self._options = options
        self._kept: dict[str, Any] = {}
        self._long = {task.name: task for task in plan.long}

    def questions(self, name: str) -> list[Question]:
        task = self._long[name]
        return self._once(name, lambda: task.read(self._options.split or task.split, self._options.data))

    def prompts(self, name: str) -> Any:
        read = {"toxigen": toxigen_prompts, "bold": bold_prompts}[name]
        return self._once(name, lambda: read(self._options.data))

    def judge(self, name: str) -> Judge:
        options = self._options
        if name == "bold":
            return self._once("judge bold", Vader)
        path = options.judge or TOXIGEN_CLASSIFIER
        return self._once(
            "judge toxigen",
            lambda: ToxicityClassifier(path, toxic_label=options.toxic_label, device=options.device),
        )

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        if name not in self._kept:
            try:
                self._kept[name] = read()
            except UserError as error:
                self._kept[name] = error
        if isinstance(self._kept[name], UserError):
            raise self._kept[name]
        return self._kept[name]


@dataclass
class _Run:
    """One model's run."""

    model: Any
    tokenizer: Any
    plan: Plan
    options: Options
    data: _Data
    output: Path
    progress: Progress
    result: ModelBenchmarks

    def all(self, key: str) -> None:
        options, plan = self.options, self.plan
        folder = self.output / "raw" / self.result.name
        chat = chat_frame(self.tokenizer) if options.chat else None
        for task in plan.long:
            for cap in plan.caps:
                with _Kept(self, f"{task.name} @ {cap}"):
                    self.result.long[task.name, cap] = ask(
                        self.model,
                        self.tokenizer,
                        task,
                        self.data.questions(task.name),
                        cap=cap,
                        folder=folder,
                        model_key=key,
                        progress=self.progress,
                        split=options.split,
                        limit=options.limit,
                        seed=options.seed,
                        chat=chat,
                        gold_loss=options.gold_loss,
                    )
        self._submissions()
        for name in plan.safety:
            with _Kept(self, name):
                self.result.safety.append(
                    run_safety(
                        name,
                        self.model,
                        self.tokenizer,
                        self.data.prompts(name),
                        self.data.judge(name),
                        folder=folder,
                        model_key=key,
                        progress=self.progress,
                        limit=options.limit,
                        seed=options.seed,
                        chat=chat,
                        batch_size=options.batch_size,
                    )
                )
        if plan.attacks:
            with _Kept(self, "red_team"):
                self.result.red_team = run_red_team(
                    self.model,
                    self.tokenizer,
                    plan.attacks,
                    plan.contexts,
                    lengths=[0, *plan.caps],
                    folder=folder,
                    model_key=key,
                    progress=self.progress,
                    chat=chat,
                )
                self.result.files.append(folder / "red_team.md")
        if plan.short:
            with _Kept(self, "short tasks"):
                self.result.short = run_lm_eval(
                    self.model,
                    self.tokenizer,
                    plan.short,
                    folder=folder / "short",
                    model_key=key,
                    batch_size=options.batch_size,
                    limit=options.limit,
                    chat=options.chat,
                    allow_code=options.allow_code,
                    include_path=options.include_path,
                    note=self.progress.note,
                )

    def _submissions(self) -> None:
        """ZeroSCROLLS' test split has no open labels: its answers become a file for the leaderboard."""
        if self.options.split != "test":
            return
        for cap in self.plan.caps:
            answers = {
                name.removeprefix("zero_scrolls/"): {row["id"]: row["answer"] for row in asked.rows}
                for (name, at), asked in self.result.long.items()
                if at == cap and name.startswith("zero_scrolls/")
            }
            if answers:
                file = self.output / f"zero_scrolls-{self.result.name}-{cap}.csv"
                missing = write_submission(answers, file)
                self.result.files.append(file)
                if missing:
                    self.progress.note(f"{file}: the leaderboard wants {', '.join(missing)}, too")


class _Kept:
    """Keeps a user's mistake, or a missing data set, as the reason why one part was not run."""

    def __init__(self, run: _Run, what: str) -> None:
        self._run, self._what = run, what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, UserError):
            return False
        self._run.result.failed[self._what] = str(error)
        self._run.progress.note(f"{self._run.result.name}, {self._what}: not run. {error}")
        return True
