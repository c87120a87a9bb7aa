"""Raw documents from files: one document at a time, in a stable order, with the place each came from.

Plain text (``.txt``, ``.md``) is one document a file; JSON lines (``.jsonl``, also ``.gz`` and ``.zst``) one a line; a
directory is all such files below it, sorted by path, so that a corpus does not depend on the file system's order.
"""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from lit_long.errors import UserError

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_READ_BYTES = 1 << 18


@dataclass(frozen=True)
class Document:
    """One raw document: its ``id`` (unique within a corpus), ``text``, and ``place`` ("file" or "file:line")."""

    id: str
    text: str
    place: str
    license: str | None = None


def list_files(path: Path) -> list[Path]:
    """Readable files at ``path`` (itself, or everything readable below it), sorted.

    Raises:
        UserError: nothing there, or nothing of a known kind.
    """
    known = TEXT_SUFFIXES + JSONL_SUFFIXES
    if path.is_file():
        if not path.name.endswith(known):
            raise UserError(f"{path}: unknown kind of file; known are {', '.join(known)}")
        return [path]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or directory; give a source that exists, relative to the current folder")
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name.endswith(known))
    if not files:
        raise UserError(f"{path}: no document in this directory; looked for {', '.join(known)}")
    return files


def read_documents(path: Path, *, text_field: str = "text", id_field: str = "id") -> Iterator[Document]:
    """Documents of a file or directory, in a stable order.

    Args:
        path: a file or a directory (see :func:`list_files`).
        text_field: name of the text in JSON lines.
        id_field: name of the document's id in JSON lines; without it the id is ``file name:line``.

    Raises:
        UserError: a line that is no JSON object, has no text, or is not UTF-8; an empty document; a file that is
            damaged or cut short. Names file and line.
    """
    root = path if path.is_dir() else path.parent
    for file in list_files(path):
        name = file.relative_to(root).as_posix()
        if file.name.endswith(TEXT_SUFFIXES):
            with _open_binary(file) as whole:
                raw = b"".join(_lines(whole, file))
            yield Document(name, _checked(_decode(raw, str(file)), str(file)), str(file))
        else:
            with _open_binary(file) as stream:
                for number, line in enumerate(_lines(stream, file), 1):
                    if line.strip():
                        yield _from_json(line, f"{file}:{number}", f"{name}:{number}", text_field, id_field)


def _open_binary(file: Path) -> BinaryIO:
    try:
        if file.name.endswith(".gz"):
            return cast(BinaryIO, gzip.open(file, "rb"))
        if file.name.endswith(".zst"):
            return cast(BinaryIO, io.BufferedReader(_ZstdFile(file), _READ_BYTES))
        return file.open("rb")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error


def _lines(stream: BinaryIO, file: Path) -> Iterator[bytes]:
    """Lines with their line ends; a file that is damaged or cut short is an error of the user's, not an end of data."""
    number = 0
    try:
        for number, line in enumerate(stream, 1):  # noqa: B007 (the place of the error)
            yield line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read beyond line {number} ({error}); get the file again") from error


class _ZstdFile(io.RawIOBase):
    """A .zst file, of one frame or many; zstandard's own reader takes a file that was cut short for a whole one."""

    def __init__(self, file: Path) -> None:
        import zstandard

        self._error, self._new_frame = zstandard.ZstdError, zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = self._new_frame()
        self._packed, self._unpacked = b"", memoryview(b"")
        self._raw = file.open("rb")

    def readable(self) -> bool:
        return True

    def readinto(self, out: Any) -> int:
        while not self._unpacked:
            self._packed = self._packed or self._raw.read(_READ_BYTES)
            if not self._packed:
                if not self._frame.eof:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            if self._frame.eof:
                self._frame = self._new_frame()
            try:
                self._unpacked = memoryview(self._frame.decompress(self._packed))
            except self._error as error:
                raise OSError(str(error)) from error
            self._packed = self._frame.unused_data
        size = min(len(out), len(self._unpacked))
        out[:size], self._unpacked = self._unpacked[:size], self._unpacked[size:]
        return size

    def close(self) -> None:
        self._raw.close()
        super().close()


def _from_json(line: bytes, place: str, default_id: str, text_field: str, id_field: str) -> Document:
    try:
        row = json.loads(_decode(line, place))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place}: not valid JSON ({error.msg} at column {error.colno}); mend or remove the line"
        ) from None
    if not isinstance(row, dict) or not isinstance(row.get(text_field), str):
        found = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise UserError(f"{place}: no text in field {text_field!r}; found {found}. Name the field with --text-field")
    id_, license_ = row.get(id_field), row.get("license")
    return Document(
        default_id if id_ is None or id_ == "" else str(id_),
        _checked(row[text_field], place),
        place,
        license_ if isinstance(license_, str) else None,
    )


def _decode(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8-sig")  # a byte order mark, as editors on Windows write it, is no text
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start}: {raw[error.start]:#04x}); convert it first") from None


def _checked(text: str, place: str) -> str:
    if not text.strip():
        raise UserError(f"{place}: an empty document; remove it")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
            raise UserError(
                f"{place}: not Unicode text (character {error.start}: {text[error.start]!a}); repair or remove it"
            ) from None
    return text
