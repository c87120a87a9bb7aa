"""Run tasks of lm-evaluation-harness on a model in memory, one at a time, so that what is done is kept.

The harness evaluates a list of tasks in one call and loses everything when one data set cannot be had. Here each task
is its own call with its own shots; its scores and every row are written when it is done, and a run that is repeated
reads them back. The random state of Python, NumPy and torch is put back, so that a training around it is not disturbed.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long.evaluation.harness.guards import code_allowed, cut_prompts, random_state_kept
from lit_long.evaluation.harness.score import HarnessResult, HarnessScore, read_results, read_score, write_score
from lit_long.evaluation.harness.suite import PRESETS, HarnessTask
from lit_long.evaluation.raw_store import key_of

_ROW_FORMAT = 1


def harness_tasks(names: Sequence[str]) -> list[HarnessTask]:
    """Tasks from names: ``paper`` and ``truthfulqa`` stand for several, the rest are names of the harness.

    The paper's tasks keep the paper's shots when they are named one by one; ``nq_open:1`` asks for one shot.

    Raises:
        UserError: what stands behind the colon is no number of shots.
    """
    known = {task.name: task for preset in PRESETS.values() for task in preset}
    found: dict[str, HarnessTask] = {}
    for given in names:
        name, colon, shots = given.partition(":")
        if colon and not shots.isdigit():
            raise UserError(f"'{given}': behind the colon stands the number of shots, such as {name}:5.")
        for task in PRESETS.get(name, (known.get(name, HarnessTask(name=name)),)):
            found[task.name] = replace(task, shots=int(shots)) if colon else task
    return list(found.values())


def run_lm_eval(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str | HarnessTask],
    *,
    folder: Path | None = None,
    model_key: str = "",
    max_length: int | None = None,
    batch_size: int | str = 1,
    limit: int | None = None,
    chat: bool = False,
    allow_code: bool = False,
    include_path: str | None = None,
    note: Callable[[str], None] | None = None,
) -> HarnessResult:
    """Evaluate a model that is in memory on tasks of lm-evaluation-harness.

    Args:
        model: Hugging Face causal LM, on its device.
        tokenizer: its tokenizer.
        tasks: names, or tasks with shots; ``paper`` is the paper's whole short suite.
        folder: each task's rows go to ``<folder>/<task>.jsonl``, and are read back when nothing changed.
        model_key: changes with the model's files.
        max_length: longest input, by default the model's window; the harness cuts longer prompts from the left, which
            is counted.
        batch_size: of the harness, ``auto`` too.
        limit: only the first so many rows of each task.
        chat: apply the tokenizer's chat template.
        allow_code: run programs that the model wrote (HumanEval, MBPP). Do this in a container without secrets.
        include_path: a folder with further task files (YAML).
        note: called with messages for the user.

    Raises:
        UserError: the harness is not installed, a task runs code without ``allow_code``, or no task could be run.
    """
    chosen = [t for task in tasks for t in (harness_tasks([task]) if isinstance(task, str) else [task])]
    unsafe = [task.name for task in chosen if task.runs_code]
    if unsafe and not allow_code:
        raise UserError(
            f"{', '.join(unsafe)} run programs that the model wrote, on this machine. Allow it with --allow-code (in a "
            "container without network and secrets), or leave them out of --tasks."
        )
    harness = _Harness(model, tokenizer, max_length, batch_size, include_path)
    result = HarnessResult()
    for task in chosen:
        settings = [_ROW_FORMAT, harness.version, model_key, task.name, task.shots, task.metrics, limit, chat]
        key = key_of([*settings, harness.max_length])
        file = None if folder is None else folder / f"{task.name}.jsonl"
        kept = None if file is None else read_score(file, key, task)
        if kept is not None:
            result.scores[task.name] = kept
            if note:
                note(f"{task.name}: nothing changed, read from {file}")
            continue
        if note:
            note(f"{task.name}: running")
        try:
            score = harness.run(task, limit=limit, chat=chat, allow_code=allow_code)
        except UserError as error:
            result.failed[task.name] = str(error)
        except Exception as error:  # whatever a task's download or code raises: the other tasks go on
            reason = next(iter(str(error).splitlines()), "")
            result.failed[task.name] = f"{type(error).__name__}: {reason}"
        else:
            result.scores[task.name] = score
            if file is not None:
                write_score(file, key, score)
        if note and task.name in result.failed:
            note(f"{task.name}: failed ({result.failed[task.name]})")
    if chosen and not result.scores:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in result.failed.items())
        raise UserError(
            f"No task could be run ({reasons}). Data sets come from the Hub: check the names, the network, and "
            "HF_HOME for a filled cache."
        )
    return result


class _Harness:
    """The harness around one model."""

    def __init__(
        self, model: Any, tokenizer: Any, max_length: int | None, batch_size: int | str, include_path: str | None
    ) -> None:
        try:
            import lm_eval
            from lm_eval.models.huggingface import HFLM
        except ImportError as error:
            raise UserError(
                f"Short tasks need lm-evaluation-harness ({error}): pip install 'lit-long[eval]'."
            ) from error
        from importlib.metadata import version

        self.version = version("lm_eval")
        window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if max_length is not None and window is not None and max_length > window:
            raise UserError(
                f"--max-length {max_length:,} is beyond this model's window of {window:,}; extend its positions first."
            )
        self.max_length = max_length or window
        self._evaluate = lm_eval.simple_evaluate
        self._lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=self.max_length)
        self._manager = _task_manager(include_path)

    def run(self, task: HarnessTask, *, limit: int | None, chat: bool, allow_code: bool) -> HarnessScore:
        if task.name not in self._manager.all_tasks:
            raise UserError(f"lm-evaluation-harness {self.version} has no task '{task.name}'")
        with random_state_kept(), cut_prompts() as cut, code_allowed(allow_code):
            found = self._evaluate(
                model=self._lm,
                tasks=[task.name],
                num_fewshot=task.shots,
                limit=limit,
                apply_chat_template=chat,
                confirm_run_unsafe_code=allow_code,
                task_manager=self._manager,
                bootstrap_iters=0,  # intervals come from the rows
                log_samples=True,
            )
        return read_results(task, found, len(cut))


@cache
def _task_manager(include_path: str | None) -> Any:
    """The index of all tasks; the harness reads some 10,000 files for it, seconds each time."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)
