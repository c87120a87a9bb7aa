"""Raw documents from files: one document at a time, in a stable order, with the place each came from.

Plain text (``.txt``, ``.md``) is one document a file; JSON lines (``.jsonl``, also ``.gz`` and ``.zst``) one a line; a
directory is all such files below it, sorted by path, so that a corpus does not depend on the file system's order.
"""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from lit_long.errors import UserError

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


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
        UserError: a line that is no JSON object, has no text, or is not UTF-8; an empty document. Names file and line.
    """
    root = path if path.is_dir() else path.parent
    for file in list_files(path):
        name = file.relative_to(root).as_posix()
        if file.name.endswith(TEXT_SUFFIXES):
            yield Document(name, _checked(_decode(file.read_bytes(), str(file)), str(file)), str(file))
        else:
            with _open_binary(file) as lines:
                for number, line in enumerate(lines, 1):
                    if line.strip():
                        yield _from_json(line, f"{file}:{number}", f"{name}:{number}", text_field, id_field)


def _open_binary(file: Path) -> BinaryIO:
    if file.name.endswith(".gz"):
        return cast(BinaryIO, gzip.open(file, "rb"))
    if file.name.endswith(".zst"):
        import zstandard

        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file.open("rb"), closefd=True))
    return file.open("rb")


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
    license_ = row.get("license")
    return Document(
        str(row.get(id_field) or default_id),
        _checked(row[text_field], place),
        place,
        license_ if isinstance(license_, str) else None,
    )


def _decode(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: not UTF-8 (byte {error.start}: {raw[error.start]:#04x}); convert it first") from None


def _checked(text: str, place: str) -> str:
    if not text.strip():
        raise UserError(f"{place}: an empty document; remove it")
    return text
