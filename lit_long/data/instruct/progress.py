"""A line of progress while conversations are tokenised, on stderr."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lit_long.data.instruct.build import Counts


@contextmanager
def shown(name: str) -> Iterator[Callable[[Counts], None]]:
    """Shows a source's counts while it is tokenised; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"tokenising {name}", total=None)

        def tell(counts: Counts) -> None:
            if counts.rows % 64 == 0:
                left = sum(counts.left_out.values())
                text = f"tokenising {name}: {counts.rows:,} rows, {counts.examples:,} examples, {left:,} left out"
                progress.update(task, description=text)

        yield tell
