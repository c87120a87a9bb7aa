"""Progress of ``lit-long prepare`` on stderr: a bar on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_long.data.prepare import Progress

_LINE_SECONDS = 10.0


@contextmanager
def shown() -> Iterator[Callable[["Progress"], None]]:
    """A function to be called with each progress, for as long as the work lasts."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich import progress as rich_progress
    from rich.console import Console

    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.TextColumn("{task.fields[counts]}"),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TextColumn("left"),
        rich_progress.TimeRemainingColumn(),
    )
    rate = _Rate()
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("tokenising", total=None, counts="")

        def show(progress: "Progress") -> None:
            bar.update(task, completed=progress.done_bytes, total=progress.total_bytes, counts=rate.counts(progress))

        yield show


class _Rate:
    """Tokens a second since the first report."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def counts(self, progress: "Progress") -> str:
        seconds = max(time.monotonic() - self._begin, 1e-3)
        total = "" if progress.total_bytes is None else f" of {progress.total_bytes / 1e6:,.0f}"
        found = f", {progress.found_items:,} items were done before" if progress.found_items else ""
        bad = f", {progress.bad_rows:,} bad rows" if progress.bad_rows else ""
        return (
            f"{progress.done_bytes / 1e6:,.0f}{total} MB, {progress.documents:,} documents, "
            f"{progress.tokens:,} tokens ({progress.tokens / seconds:,.0f}/s){bad}{found}"
        )

    def left(self, progress: "Progress", begin_bytes: int) -> str:
        done = progress.done_bytes - begin_bytes
        if progress.total_bytes is None or done <= 0:
            return ""
        seconds = (time.monotonic() - self._begin) * (progress.total_bytes - progress.done_bytes) / done
        return f", about {seconds / 60:,.0f} min left" if seconds >= 90 else f", about {seconds:,.0f} s left"


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self._rate, self._last = _Rate(), time.monotonic()
        self._begin_bytes: int | None = None

    def __call__(self, progress: "Progress") -> None:
        if self._begin_bytes is None:
            self._begin_bytes = progress.done_bytes
            if progress.found_items:
                print(f"going on: {progress.found_items:,} items were done before", file=sys.stderr)
        if time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            left = self._rate.left(progress, self._begin_bytes)
            print(f"tokenising: {self._rate.counts(progress)}{left}", file=sys.stderr)
