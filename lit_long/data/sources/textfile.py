"""Plain text: one file, one document, to the byte (line ends too); what a bad row is in JSON lines is one here."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lit_long.data.sources.records import Record
from lit_long.data.sources.rows import BadRowError, decode, document, too_long
from lit_long.data.sources.source import Source
from lit_long.data.sources.streams import cannot_read


@dataclass(frozen=True)
class TextFile:
    """A .txt or .md file of ``size`` bytes; ``name``, its path within the source, is the document's id."""

    file: str
    name: str
    size: int

    def read(self, source: Source, max_document_bytes: int) -> Iterator[Record]:
        """One document or bad row."""
        try:
            size = Path(self.file).stat().st_size
            raw = Path(self.file).read_bytes() if size <= max_document_bytes else b""
        except OSError as error:
            raise cannot_read(self.file, error) from error
        try:
            if size > max_document_bytes:
                raise too_long(size, max_document_bytes)
            yield document(source, decode(raw), None, None, self.file, self.name)
        except BadRowError as error:
            yield error.at(self.file)


def plan_text(file: Path, name: str) -> TextFile:
    """The one part of a text file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return TextFile(str(file), name, file.stat().st_size)
    except OSError as error:
        raise cannot_read(file, error) from error
