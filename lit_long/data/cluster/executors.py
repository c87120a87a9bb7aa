"""Stages to datatrove executors, and starting them.

An executor only says where tasks run. What a task does, and what is done already, is the same everywhere, so a run may
begin on this machine and end on a cluster.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from lit_long.data.cluster.stage import Stage
from lit_long.errors import UserError

Kind = Literal["local", "slurm", "ray"]
_OURS = ("self", "pipeline", "tasks", "depends", "logging_dir", "skip_completed")


def make_executors(stages: Sequence[Stage], kind: Kind, *, logs: str | Path, **options: Any) -> list[Any]:
    """One datatrove executor a stage.

    Args:
        stages: of :func:`lit_long.data.cluster.prepare.prepare_stages`.
        kind: local (processes of this machine), slurm or ray.
        logs: folder for datatrove's logs of stages that have none of their own; on Slurm and Ray one that all
            machines see.
        options: the executor's own, such as ``workers`` everywhere, or ``partition``, ``time``, ``qos``,
            ``mem_per_cpu_gb``, ``venv_path`` on Slurm; the same for all stages.

    Raises:
        UserError: datatrove is missing, an unknown kind or option, or a missing one.
    """
    executor = _executor(kind)
    parameters = inspect.signature(executor.__init__).parameters
    allowed = {name: p.default is p.empty for name, p in parameters.items() if name not in _OURS}
    if unknown := sorted(set(options) - set(allowed)):
        raise UserError(f"executor {kind}: no option {unknown[0]!r}; options: {', '.join(sorted(allowed))}")
    if missing := sorted(name for name, required in allowed.items() if required and name not in options):
        raise UserError(f"executor {kind}: needs {', '.join(missing)}; give the option as a keyword")
    made: list[Any] = []
    for stage in stages:
        own = dict(options)
        if kind == "slurm":
            own["depends"] = made[-1] if made else None
            own.setdefault("job_name", f"lit-long-{stage.name}")
        made.append(
            executor(
                pipeline=stage.steps,
                tasks=stage.tasks,
                logging_dir=str((stage.logs or Path(logs).absolute()) / stage.name),
                skip_completed=not stage.repeatable,
                **own,
            )
        )
    return made


def launch(executors: Sequence[Any], tell: Callable[[str, int, int], None] = lambda stage, done, tasks: None) -> None:
    """Start them: Slurm jobs are submitted, each waiting for the one before; local and Ray stages run one by one.

    Args:
        executors: of :func:`make_executors`.
        tell: called with the name of a stage, its finished tasks and its tasks (local and Ray).

    Raises:
        UserError: tasks of a stage failed (local, Ray); names the folder of their logs.
    """
    if hasattr(executors[-1], "job_id"):
        executors[-1].run()
        return
    for executor in executors:
        stage = Path(executor.logging_dir.path).name
        if type(executor).__name__ == "LocalExecutor":
            executor.run(partial(tell, stage))
        else:
            executor.run()
            tell(stage, executor.world_size, executor.world_size)
        if failed := executor.get_incomplete_ranks(skip_completed=True):
            raise UserError(
                f"{len(failed)} of {executor.world_size} tasks failed, the first is {failed[0]}; its log is "
                f"{executor.logging_dir.path}/logs/task_{failed[0]:05d}.log. The same call goes on from here"
            )


def _executor(kind: Kind) -> Any:
    try:
        if kind == "local":
            from lit_long.data.cluster.local import LocalExecutor

            return LocalExecutor
        if kind == "slurm":
            from datatrove.executor.slurm import SlurmPipelineExecutor

            return SlurmPipelineExecutor
        if kind == "ray":
            from datatrove.executor.ray import RayPipelineExecutor

            return RayPipelineExecutor
    except ImportError as error:
        raise UserError(
            f"executor {kind}: needs the package {error.name}; install with: pip install 'lit-long[clean]'"
        ) from error
    raise UserError(f"executor {kind!r}: give one of {', '.join(get_args(Kind))}")
