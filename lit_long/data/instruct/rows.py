"""Reads the rows of a chat dataset, each with its place: JSON lines, JSON, parquet, or a Hub dataset."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lit_long.data.sources.streams import cannot_read, unpacked
from lit_long.errors import UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".parquet")
Row = tuple[str, dict[str, Any]]


def read_rows(
    path: str, *, subset: str | None = None, split: str = "train", revision: str | None = None
) -> Iterator[Row]:
    """(place, row) of a file, of all files of a folder by name, or of ``hub:org/name``.

    Raises:
        UserError: nothing there, a file of another kind, damaged or cut short, or a line that is no JSON object.
    """
    if path.startswith("hub:"):
        yield from _hub(path.removeprefix("hub:"), subset, split, revision)
        return
    from pyarrow import ArrowException

    for file in files_of(path):
        try:
            yield from _parquet(file) if file.suffix == ".parquet" else _json(file)
        except (OSError, ArrowException) as error:
            raise cannot_read(file, error) from error


def files_of(path: str) -> list[Path]:
    """The files of a source, in the order of their names.

    Raises:
        UserError: nothing there, or a file of another kind.
    """
    place = Path(path)
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
        if not found:
            raise UserError(f"{path}: no file of {', '.join(SUFFIXES)} in this folder")
        return found
    if not place.is_file():
        raise UserError(f"{path} does not exist; give a file, a folder, or hub:ORG/NAME")
    if not place.name.endswith(SUFFIXES):
        raise UserError(f"{path} is none of {', '.join(SUFFIXES)}")
    return [place]


def _json(file: Path) -> Iterator[Row]:
    if file.suffix == ".json":
        content = _parsed(file.read_bytes(), str(file))
        if not isinstance(content, list):
            raise UserError(f"{file}: a .json file holds a list of rows, found {type(content).__name__}")
        for number, row in enumerate(content):
            yield f"{file}[{number}]", _object(row, f"{file}[{number}]")
        return
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            yield f"{file}:{number}", _object(_parsed(line, f"{file}:{number}"), f"{file}:{number}")


def _lines(file: Path) -> Iterator[bytes]:
    if file.suffix not in (".gz", ".zst"):
        with file.open("rb") as stream:
            yield from stream
        return
    rest = b""
    for chunk in unpacked(file):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    yield rest


def _parsed(text: bytes, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{place}: no JSON ({error}); mend or remove it") from error


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UserError(f"{place}: a row is a JSON object, found {type(row).__name__}")
    return row


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    number = 0
    for batch in pq.ParquetFile(file).iter_batches(256):
        for row in batch.to_pylist():
            yield f"{file}#{number}", row
            number += 1


def _hub(name: str, subset: str | None, split: str, revision: str | None) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(name, subset, split=split, revision=revision, streaming=True)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        raise UserError(f"hub:{name}: cannot be read: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(rows):
        yield f"hub:{name}#{number}", dict(row)
