"""What all ways of running have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Stage:
    """Datatrove steps that run one after the other in each of ``tasks`` tasks.

    A stage begins when the one before is done.

    Attributes:
        name: of its folder of logs.
        steps: datatrove ``PipelineStep``s.
        tasks: how many tasks share the work; each is told its rank.
        logs: folder of datatrove's logs and completion marks; None: where the executors' caller says.
        repeatable: the steps themselves know what is done, so datatrove's completion marks are not asked.
    """

    name: str
    steps: list[Callable[..., Any]]
    tasks: int
    repeatable: bool = False
    logs: Path | None = None
