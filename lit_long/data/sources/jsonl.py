"""JSON lines: cut into stretches by counting line ends only, parsed by whoever reads a stretch.

A plain file is cut into byte ranges, which the workers read themselves; a compressed one has to be decompressed in one
go, so its stretches carry their lines. Lines end with LF or CR LF; a line of white space is no row. No line longer than
``max_document_bytes`` (as it stands in the file, without its end) is ever held whole.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from lit_long.data.sources.records import Document, Part, Record
from lit_long.data.sources.rows import BadRowError, decode, document, missing_text, too_long
from lit_long.data.sources.source import Source
from lit_long.data.sources.streams import CHUNK_BYTES, cannot_read, unpacked
from lit_long.errors import UserError


@dataclass(frozen=True)
class LineRange:
    """Lines of a plain file: bytes ``begin`` to ``end``, which begin with line number ``first`` (from 1)."""

    file: str
    name: str
    begin: int
    end: int
    first: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.begin

    def read(self, source: Source, max_document_bytes: int) -> Iterator[Record]:
        """The documents and bad rows of these lines."""
        try:
            with open(self.file, "rb") as stream:
                stream.seek(self.begin)
                yield from _records(stream, self, source, max_document_bytes)
        except OSError as error:
            raise cannot_read(self.file, error) from error


@dataclass(frozen=True)
class LineBlock:
    """Lines of a compressed file, decompressed; they begin with line number ``first`` (from 1)."""

    file: str
    name: str
    data: bytes = field(repr=False)
    first: int

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)

    def read(self, source: Source, max_document_bytes: int) -> Iterator[Record]:
        """The documents and bad rows of these lines."""
        yield from _records(io.BytesIO(self.data), self, source, max_document_bytes)


@dataclass(frozen=True)
class LongLine:
    """A line of a compressed file that was too long to keep: its number and its bytes without the line end."""

    file: str
    number: int
    bytes: int
    size: int = 0

    def read(self, source: Source, max_document_bytes: int) -> Iterator[Record]:
        """One bad row."""
        yield too_long(self.bytes, max_document_bytes).at(f"{self.file}:{self.number}")


def plan_jsonl(file: Path, name: str, item_bytes: int, max_document_bytes: int) -> Iterator[Part]:
    """Stretches of whole lines, each ended by the first line end at or after ``item_bytes``.

    Args:
        file: a .jsonl, .jsonl.gz or .jsonl.zst file.
        name: its path within the source, for the ids of documents without one.
        item_bytes: bytes of a stretch.
        max_document_bytes: longest line that is kept.

    Raises:
        UserError: the file cannot be read, is damaged or was cut short; names the last line that could be read.
    """
    if file.suffix == ".jsonl":
        return _plan_plain(file, name, item_bytes)
    return _plan_packed(file, name, item_bytes, max_document_bytes)


def _plan_plain(file: Path, name: str, item_bytes: int) -> Iterator[Part]:
    begin = position = 0  # of the stretch, of the buffer: bytes in the file
    first = line = 1
    buffer = bytearray(CHUNK_BYTES)
    try:
        with file.open("rb", buffering=0) as stream:
            while filled := stream.readinto(buffer):
                counted = 0
                while (least := max(counted, begin + item_bytes - 1 - position)) < filled:
                    if (cut := buffer.find(b"\n", least, filled) + 1) == 0:
                        break
                    line += buffer.count(b"\n", counted, cut)
                    yield LineRange(str(file), name, begin, position + cut, first)
                    begin, first, counted = position + cut, line, cut
                line += buffer.count(b"\n", counted, filled)
                position += filled
    except OSError as error:
        raise cannot_read(file, error) from error
    if position > begin:
        yield LineRange(str(file), name, begin, position, first)


def _plan_packed(file: Path, name: str, item_bytes: int, max_document_bytes: int) -> Iterator[Part]:
    block, first = bytearray(), 1  # lines not handed out yet, the number of the first
    tail = 0  # where the last, unfinished line begins in the block
    dropped, return_ = 0, False  # bytes of a line that is too long, where we are inside one; whether a CR came last

    def take(stop: int) -> LineBlock:
        nonlocal first, tail
        with memoryview(block) as view:
            part = LineBlock(str(file), name, bytes(view[:stop]), first)
        del block[:stop]
        first += part.data.count(b"\n")
        tail = max(0, tail - stop)
        return part

    try:
        for chunk in unpacked(file):
            if dropped:
                if (end := chunk.find(b"\n")) < 0:
                    dropped, return_ = dropped + len(chunk), chunk.endswith(b"\r")
                    continue
                return_ = chunk[end - 1 : end] == b"\r" if end else return_
                yield LongLine(str(file), first, dropped + end - return_)
                first, dropped, chunk = first + 1, 0, chunk[end + 1 :]
            seen = len(block)
            block += chunk
            if (last := chunk.rfind(b"\n")) >= 0:
                tail = seen + last + 1
            while (cut := block.find(b"\n", max(seen, item_bytes - 1))) >= 0:
                seen = 0
                yield take(cut + 1)
            if len(block) - tail > max_document_bytes + 1:  # one more for a CR
                if tail:
                    yield take(tail)
                dropped, return_ = len(block), block.endswith(b"\r")
                block.clear()
    except OSError as error:
        line = first - 1 + block.count(b"\n")
        raise UserError(f"{file}: cannot be read beyond line {line} ({error}); get the file again") from error
    if dropped:
        yield LongLine(str(file), first, dropped)
    elif block:
        yield take(len(block))


def _records(
    stream: BinaryIO, part: LineRange | LineBlock, source: Source, max_document_bytes: int
) -> Iterator[Record]:
    number, left = part.first, part.size
    while left > 0:
        line = stream.readline(min(left, max_document_bytes + 2))  # two for CR LF
        size, end = len(line), line[-2:]
        while line and not line.endswith(b"\n") and size < left:  # too long: to the line's end in pieces
            line = stream.readline(min(left - size, CHUNK_BYTES))
            size, end = size + len(line), (end + line)[-2:]
        if not line:
            raise UserError(f"{part.file}: became shorter while it was read; start again when it is complete")
        content = size - (2 if end == b"\r\n" else 1 if end.endswith(b"\n") else 0)
        place = f"{part.file}:{number}"
        if content > max_document_bytes:
            yield too_long(content, max_document_bytes).at(place)
        elif not line.isspace():
            try:
                yield _document(line, source, place, f"{part.name}:{number}")
            except BadRowError as error:
                yield error.at(place)
        left -= size
        number += 1


def _document(line: bytes, source: Source, place: str, default_id: str) -> Document:
    try:
        row = json.loads(decode(line))
    except json.JSONDecodeError as error:
        raise BadRowError(
            "invalid_json", f"not valid JSON ({error.msg} at column {error.colno}); mend or remove the line"
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise BadRowError("invalid_json", f"JSON that cannot be read ({error}); mend or remove the line") from None
    if not isinstance(row, dict):
        found = type(row).__name__
        raise BadRowError("not_an_object", f"not a JSON object with a field {source.text_field!r}; found {found}")
    text = row.get(source.text_field)
    if not isinstance(text, str):
        raise missing_text(source, sorted(row))
    id_ = None if source.id_field is None else row.get(source.id_field)
    return document(source, text, id_, row.get("license"), place, default_id)
