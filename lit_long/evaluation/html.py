"""A report as one HTML file: its Markdown rendered, its plots inside, nothing loaded from elsewhere."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border:1px solid #ccc;padding:.25em .6em}"
    "img{max-width:100%;margin:1em 0}h1,h2{line-height:1.2}"
)


def write_html(markdown: Path, images: Sequence[Path]) -> Path:
    """Write ``<name>.html`` beside ``<name>.md``; returns its path.

    Raw HTML in the Markdown (a model's answer may hold some) is shown as text, never rendered.

    Args:
        markdown: the report.
        images: PNG files, shown below it.
    """
    from markdown_it import MarkdownIt

    text = markdown.read_text(encoding="utf-8")
    title = next((line.lstrip("# ") for line in text.splitlines() if line.startswith("#")), markdown.stem)
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    shown = "".join(
        f'<figure><img alt="{html.escape(image.stem)}" src="data:image/png;base64,'
        f'{base64.b64encode(image.read_bytes()).decode()}"></figure>'
        for image in images
    )
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{body}{shown}</body></html>\n"
    )
    file = markdown.with_suffix(".html")
    file.write_text(page, encoding="utf-8")
    return file
