"""The pages of README, CONTRIBUTING and docs/: their code blocks, what is said of a block, and what it prints."""

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: path from the root of the repository.
        line: of the page, from 1.
        language: as the page says, "" if it does not.
        text: what is inside.
        not_run: the reason in a comment ``<!-- not run: ... -->`` before the block; None: it runs.
        printed: for Python, the block without a language that follows at once: what running it prints; ``...`` in it is
            anything.
    """

    page: str
    line: int
    language: str
    text: str
    not_run: str | None
    printed: str | None


def pages() -> list[str]:
    """All pages, from the root of the repository."""
    whole = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(path.relative_to(ROOT)) for path in whole if path.is_file()]


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Its fenced blocks in order, those in lists too."""
    tokens = [token for token in MarkdownIt().parse(text_of(page)) if token.type in ("fence", "html_block", "inline")]
    found = []
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if token.type != "fence":
            continue
        note = NOT_RUN.search(before.content) if before is not None and before.type == "html_block" else None
        follows = after is not None and after.type == "fence" and not after.info and after.map[0] == token.map[1]
        found.append(
            Block(
                page=page,
                line=token.map[0] + 1,
                language=token.info.strip().partition(" ")[0],
                text=token.content,
                not_run=note[1] if note else None,
                printed=after.content if follows else None,
            )
        )
    return found


def inline_code(page: str) -> list[tuple[int, str]]:
    """(line, text) of each code span."""
    spans = []
    for token in MarkdownIt().enable("table").parse(text_of(page)):
        if token.type == "inline":
            line = token.map[0] + 1 if token.map else 0
            spans += [(line, child.content) for child in token.children or [] if child.type == "code_inline"]
    return spans
