"""What was asked for, checked before any model is loaded: names of tasks, prompt caps, files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lit_long.errors import UserError
from lit_long.evaluation.harness.run import harness_tasks
from lit_long.evaluation.harness.suite import PRESETS, HarnessTask
from lit_long.evaluation.long_qa.catalogue import GROUPS, find_tasks
from lit_long.evaluation.long_qa.tasks import LongTask
from lit_long.evaluation.safety.red_team import Attack, read_attacks

SAFETY = ("toxigen", "bold")
RED_TEAM = "red_team"
_HARNESS = "lm_eval/"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run on every model."""

    long: list[LongTask] = field(default_factory=list)
    short: list[HarnessTask] = field(default_factory=list)
    safety: list[str] = field(default_factory=list)
    attacks: list[Attack] = field(default_factory=list)
    contexts: list[str] = field(default_factory=list)
    caps: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run it.

    Attributes:
        data: folder of local data sets; default: the Hub.
        split: of long tasks; default: each task's own (validation; test for L-Eval).
        limit: most questions of a task, drawn at random from long and safety tasks, the first ones of short tasks.
        seed: of that draw.
        chat: whether to talk to the model through its chat template.
        gold_loss: whether to measure the loss of gold answers.
        batch_size: of short tasks and safety prompts.
        allow_code: run programs that the model writes (HumanEval, MBPP).
        include_path: folder of further task files of lm-evaluation-harness.
        judge: toxicity classifier for ToxiGen; default: the RoBERTa one of ToxiGen.
        toxic_label: its label for toxic texts.
        device: torch device.
    """

    data: Path | None = None
    split: str | None = None
    limit: int | None = None
    seed: int = 0
    chat: bool = False
    gold_loss: bool = True
    batch_size: int = 8
    allow_code: bool = False
    include_path: str | None = None
    judge: str | None = None
    toxic_label: str | int = 1
    device: str = "cpu"


def make_plan(
    names: Sequence[str],
    caps: Sequence[int],
    *,
    allow_code: bool = False,
    attacks: Path | None = None,
    contexts: Path | None = None,
) -> Plan:
    """Sort names of tasks by who runs them.

    Args:
        names: ``scrolls``, ``zero_scrolls``, ``l_eval`` or one task of them such as ``scrolls/qasper``; ``paper`` for
            the paper's short suite, ``truthfulqa``, ``lm_eval/NAME`` or ``lm_eval/NAME:SHOTS`` for any other task of
            the harness; ``toxigen``, ``bold``, ``red_team``.
        caps: prompt caps of long tasks and lengths of red-team prompts, in tokens.
        allow_code: whether tasks that run the model's programs may run.
        attacks: requests of the red team.
        contexts: long texts that are put before them.

    Raises:
        UserError: an unknown name, a long task without a cap, a task that runs code without leave, a missing file.
    """
    short_names = {task.name for preset in PRESETS.values() for task in preset}
    long, short, safety = [], [], []
    for name in dict.fromkeys(names):
        if name.split("/")[0] in GROUPS:
            long.append(name)
        elif name.partition(":")[0] in (*PRESETS, *short_names):
            short.append(name)
        elif name.startswith(_HARNESS):
            short.append(name.removeprefix(_HARNESS))
        elif name in SAFETY:
            safety.append(name)
        elif name != RED_TEAM:
            known = ", ".join([*GROUPS, *PRESETS, *SAFETY, RED_TEAM])
            raise UserError(f"No task '{name}'. There are {known}, members such as scrolls/qasper, and lm_eval/NAME.")
    red = RED_TEAM in names
    if (long or red) and not caps:
        raise UserError("Long tasks need --max-length: the prompt caps in tokens, e.g. --max-length 4096 16384.")
    if any(cap < 1 for cap in caps):
        raise UserError(f"--max-length {min(caps)}: must be at least 1.")
    if red and (attacks is None or contexts is None):
        raise UserError("red_team needs --attacks FILE (requests) and --contexts FILE (long texts to put before them).")
    tasks = harness_tasks(short)
    if not allow_code and any(task.runs_code for task in tasks):
        unsafe = ", ".join(task.name for task in tasks if task.runs_code)
        raise UserError(
            f"{unsafe} run programs that the model wrote, on this machine. Allow it with --allow-code (in a container "
            "without network and secrets), or name the other tasks one by one."
        )
    return Plan(
        long=find_tasks(long),
        short=tasks,
        safety=safety,
        attacks=read_attacks(attacks) if red and attacks else [],
        contexts=_contexts(contexts) if red and contexts else [],
        caps=sorted(set(caps)),
    )


def _contexts(path: Path) -> list[str]:
    """Long texts: one plain text file, or JSON lines with ``text``."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a text file, or JSON lines with a 'text'.")
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".jsonl":
        return [content]
    try:
        return [str(json.loads(line)["text"]) for line in content.split("\n") if line.strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not JSON lines with a 'text' ({error}).") from error
