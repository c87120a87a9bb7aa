"""Preparing on many machines, through datatrove's executors: Slurm, Ray, or the processes of this machine.

    executors = prepare_executors(config, kind="slurm", tasks=64, partition="cpu", time="10:00:00")
    launch(executors)

docs/data/many_machines.md has whole examples. Needs the extra ``clean``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_long.data.cluster.executors import Kind, launch, make_executors

if TYPE_CHECKING:
    from lit_long.data.prepare import PrepareConfig

__all__ = ["Kind", "launch", "make_executors", "prepare_executors"]


def prepare_executors(
    config: "PrepareConfig", *, kind: Kind = "local", tasks: int, logs: str | Path | None = None, **options: Any
) -> list[Any]:
    """The datatrove executors that together do what ``prepare(config)`` does; hand them to :func:`launch`.

    The corpus has the same fingerprint, whatever the kind and the number of tasks.

    Args:
        config: as for :func:`lit_long.data.prepare.prepare`; on Ray with absolute paths, and on several machines with
            paths that all of them see.
        kind: local, slurm or ray.
        tasks: into how many tasks the tokenising is cut (cleaning has its own number: one for 64 MiB of text).
        logs: folder of datatrove's logs; default: the output with ``.logs`` at its end.
        options: the executor's own; see :func:`make_executors`.

    Raises:
        UserError: a package, source or setting that cannot work.
    """
    from importlib.util import find_spec

    from lit_long.errors import UserError

    if tasks < 1:
        raise UserError(f"tasks is {tasks}; give 1 or more")
    if find_spec("datatrove") is None:
        raise UserError("many machines: needs the package datatrove; install with: pip install 'lit-long[clean]'")
    from lit_long.data.cluster.prepare import logs_of, prepare_stages

    return make_executors(prepare_stages(config, tasks=tasks), kind, logs=logs or logs_of(config), **options)
