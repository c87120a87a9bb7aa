"""Progress of an evaluation on the terminal: stderr only, so that stdout holds nothing but results."""

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class TerminalProgress:
    """One bar per model, counted in input tokens; a context manager."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True))
        self._task: TaskID | None = None

    def __enter__(self) -> "TerminalProgress":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def start(self, name: str, tokens: int) -> None:
        """A model's measurement of ``tokens`` input tokens begins."""
        self._task = self._progress.add_task(name, total=tokens)

    def advance(self, tokens: int) -> None:
        """``tokens`` more input tokens are done."""
        assert self._task is not None
        self._progress.advance(self._task, tokens)

    def note(self, message: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(message, highlight=False, markup=False, soft_wrap=True)
