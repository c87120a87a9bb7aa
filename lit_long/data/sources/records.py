"""What sources give: documents, rows that are bad, files that were left out, and the units of work they come in."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lit_long.data.sources.source import Source

BAD_KINDS = (
    "invalid_json",  # a line that is no JSON
    "not_an_object",  # JSON, but a list, a number, ...
    "missing_text",  # no text field, or one that is no string
    "invalid_utf8",  # bytes that are no UTF-8
    "invalid_unicode",  # half of a surrogate pair, as JSON can spell it
    "empty",  # nothing but white space
    "nul",  # a NUL character, the mark of a binary or damaged text
    "too_long",  # more bytes than max_document_bytes
)


@dataclass(frozen=True)
class Document:
    """One raw document.

    ``id`` is unique within a source unless the source's own ids repeat; ``place`` is "file", "file:line", "file#row"
    (rows count from 0), "dataset id#row" or a repository's folder.
    """

    id: str
    text: str
    place: str
    license: str | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that is no document: its ``place`` (as for a document), its ``kind`` (of ``BAD_KINDS``), what to do."""

    place: str
    kind: str
    message: str


@dataclass(frozen=True)
class Skipped:
    """Files that were left out on purpose, so that a report can say so: ``files`` of them, for one ``reason``."""

    place: str
    reason: str
    files: int


Record = Document | BadRow | Skipped


class Part(Protocol):
    """A stretch of one source that can be pickled and read alone: lines of a file, rows of a table, a repository."""

    @property
    def size(self) -> int:
        """Bytes of raw text (decompressed), at most an estimate."""

    def read(self, source: "Source", max_document_bytes: int) -> Iterator[Record]:
        """The records of this stretch, in order."""


@dataclass(frozen=True)
class Item:
    """A picklable unit of work: parts of the source with the index ``source``; ``number`` counts from 0 over all."""

    source: int
    number: int
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes of raw text, as far as they are known without parsing."""
        return sum(part.size for part in self.parts)
