"""What the site adds to docs/ (``hooks`` in mkdocs.yml): the README as home, linked files, notebooks.

Pages of docs/ link to each other and to files outside docs/ (recipes, measurements) by relative paths, so that every
link works where the repository is read. The site has only what is in docs/. So each file or directory of the repository
that a page links to becomes a page under ``repository/``, and links are rewritten to it. A link to nothing stays as it
is, and ``mkdocs build --strict`` refuses it.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()([^()\s]+)(?=\))")
FENCE = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)  # no links in code
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sbatch": "bash", ".json": "json"}
ALWAYS = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/results")  # in the navigation, linked or not
TOO_LONG = 100_000  # characters

_repository: dict[str, str] = {}  # page of the site -> path in the repository
_pages: dict[str, str] = {}  # the other way round


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README as home, notebooks as pages, and every file outside docs/ that is linked, directly or not."""
    _repository.clear()
    _pages.clear()
    for file in files.documentation_pages():
        _know(file.src_uri, f"docs/{file.src_uri}")
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            _know(file.src_uri.removesuffix(".ipynb") + ".md", f"docs/{file.src_uri}")
            files.append(File.generated(config, _pages[f"docs/{file.src_uri}"], content=_notebook(file)))
    _know("index.md", "README.md")
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    waiting = [target for page in list(_pages) for target in _targets(page)]
    waiting += [path for name in ALWAYS for path in _expanded(name)]
    while waiting:
        path = waiting.pop()
        if path in _pages or path.startswith("docs/"):
            continue
        _know(_page_name(path), path)
        files.append(File.generated(config, _pages[path], content=_content(path)))
        waiting += _targets(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's own pages."""
    path = _repository.get(page.file.src_uri)
    if path is None:
        return markdown
    own_notebook = path.endswith(".ipynb")

    def moved(match: re.Match[str]) -> str:
        target, anchor = _resolved(path, match[0])
        if target is None or (own_notebook and target == path):
            return match[0]
        to = _pages.get(target) or target.removeprefix("docs/")
        return posixpath.relpath(to, posixpath.dirname(page.file.src_uri)) + anchor

    parts = FENCE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(moved, part) for index, part in enumerate(parts))


def _know(page: str, path: str) -> None:
    _repository[page], _pages[path] = path, page


def _page_name(path: str) -> str:
    if (ROOT / path).is_dir():
        return f"repository/{path}/index.md"
    return f"repository/{path}" if path.endswith(".md") else f"repository/{path}.md"


def _resolved(path: str, link: str) -> tuple[str | None, str]:
    """The file or directory of the repository that a link in ``path`` means, and the anchor; None: none."""
    target, hash_, anchor = link.partition("#")
    if not target or "://" in target or target.startswith(("/", "mailto:")):
        return None, ""
    folder = path if (ROOT / path).is_dir() else posixpath.dirname(path)
    whole = posixpath.normpath(posixpath.join(folder, target))
    inside = not whole.startswith("..") and (ROOT / whole).exists()
    return (whole if inside else None), hash_ + anchor


def _targets(path: str) -> list[str]:
    """Files that a page links to."""
    whole = ROOT / path
    if path.endswith(".ipynb") or not (whole.is_dir() or path.endswith(".md")):
        return []
    text = _content(path) if whole.is_dir() else whole.read_text(encoding="utf-8")
    links = (link for part in FENCE.split(text)[::2] for link in LINK.findall(part))
    return [target for target, _ in (_resolved(path, link) for link in links) if target]


def _expanded(name: str) -> list[str]:
    whole = ROOT / name
    return sorted(f"{name}/{file.name}" for file in whole.glob("*.md")) if whole.is_dir() else [name]


def _content(path: str) -> str:
    whole = ROOT / path
    if whole.is_dir():
        rows = (file.name for file in sorted(whole.iterdir()) if not file.name.startswith((".", "__")))
        return "\n".join([f"# {path}/", "", *(f"- [{name}]({name})" for name in rows), ""])
    text = whole.read_text(encoding="utf-8")
    if path.endswith(".md"):
        return text
    if len(text) > TOO_LONG:
        text = f"# {len(text):,} characters: look at the file itself"
    return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n````{LANGUAGES.get(whole.suffix, 'text')}\n{text}\n````\n"


def _notebook(file: File) -> str:
    """A notebook's cells as a page: text as it is, code as blocks."""
    content: dict[str, Any] = json.loads(file.content_string)
    parts = []
    for cell in content["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    name = posixpath.basename(file.src_uri)
    parts.insert(1, f"The notebook itself: [{name}]({name}).")
    return "\n\n".join([*parts, ""])
