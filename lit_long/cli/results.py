"""How evaluation commands end: the page and its files for people, or JSON for machines, on stdout."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def show_results(content: dict[str, Any], page: Callable[[], str], files: Sequence[Path], *, as_json: bool) -> None:
    """Print ``content`` as JSON, and nothing else; or the page and the files that were written.

    Beside the first Markdown file an HTML page is written that has everything in it, pictures too.
    """
    import json
    import sys

    from lit_long.evaluation.html import write_html

    pages = [write_html(file, [f for f in files if f.suffix == ".png"]) for file in files if file.suffix == ".md"][:1]
    if as_json:
        json.dump(content, sys.stdout, indent=1, allow_nan=False)
        print()
    else:
        print(page())
        print("\n".join(["Files:", *(f"  {file}" for file in [*files, *pages])]))
