"""Progress of ``lit-long synthesize`` on stderr: a live table on a terminal, a line every ten seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lit_long.synthesis.progress import Progress

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
    )
    with rich_progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=None, counts="")

        def show(progress: "Progress") -> None:
            bar.update(task, completed=progress.documents, total=progress.total_documents, counts=counts(progress))

        yield show


def counts(progress: "Progress") -> str:
    """The counts in words."""
    seconds = max(time.monotonic() - progress.began, 1e-3) if progress.began else 0.0
    rate = f" ({progress.completion_tokens / seconds:,.0f} reply tokens/s)" if seconds else ""
    found = f", {progress.found:,} done before ({progress.accepted_before:,} accepted)" if progress.found else ""
    words = [
        f"{progress.documents:,} documents, {progress.in_work:,} in work: {progress.accepted:,} accepted",
        f"{progress.rejected.total():,} rejected{_by(progress.rejected)}",
        f"{progress.failed:,} failed",
    ]
    if progress.skipped:
        words.append(f"{progress.skipped.total():,} skipped{_by(progress.skipped)}")
    if progress.retries:
        words.append(f"{progress.retries.total():,} retries{_by(progress.retries)}")
    return ", ".join(words) + f"{found}; {progress.requests:,} requests{rate}"


def _by(reasons: "dict[str, int]") -> str:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return f" ({', '.join(f'{reason} {n:,}' for reason, n in ordered)})" if ordered else ""


class _Lines:
    """A line now and then."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def __call__(self, progress: "Progress") -> None:
        if time.monotonic() - self._last >= _LINE_SECONDS:
            self._last = time.monotonic()
            print(f"asking: {counts(progress)}", file=sys.stderr)
