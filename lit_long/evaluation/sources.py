"""Rows of public benchmarks through `datasets`: from the Hub, or from a folder where there is no network.

Nothing is run from a dataset's repository: `datasets` 4 dropped loading scripts, so SCROLLS, ZeroSCROLLS and L-Eval
are read as the JSON lines (in zip archives) that their repositories hold anyway.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from lit_long.errors import UserError

Row = dict[str, Any]


@dataclass(frozen=True)
class HubRows:
    """Where one table of rows lives.

    Attributes:
        folder: its place below a local data folder, e.g. ``scrolls/qasper``.
        repository: Hub dataset id.
        file: file in the repository, with ``{split}``; ``archive.zip!inner/path`` for a file in an archive; ``None``
            for a repository that ``datasets`` loads by itself.
        config: configuration of such a repository.
    """

    folder: str
    repository: str
    file: str | None = None
    config: str | None = None


def read_rows(place: HubRows, split: str, data: Path | None) -> list[Row]:
    """All rows of a split.

    Args:
        place: which table.
        split: ``train``, ``validation`` or ``test``.
        data: a local data folder, read instead of the Hub: ``DATA/<place.folder>/<split>.jsonl`` or ``.parquet``, or
            the Hub's own archive as ``DATA/<place.folder>.zip``.

    Raises:
        UserError: nothing there, the Hub cannot be reached, or the file is not readable.
    """
    source = str(data / place.folder / split) if data else f"Hub dataset {place.repository}"
    try:
        rows = _rows(place, split, data)
    except UserError:
        raise
    except Exception as error:  # datasets, fsspec and pyarrow have no error in common
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{source}: the rows of '{place.folder}' ({split}) could not be read ({type(error).__name__}: {reason}). "
            f"Without network give --data FOLDER with FOLDER/{place.folder}/{split}.jsonl in the schema of "
            f"{place.repository}."
        ) from error
    if not rows:
        raise UserError(f"{source}: no rows in the {split} split of '{place.folder}'.")
    return rows


def _rows(place: HubRows, split: str, data: Path | None) -> list[Row]:
    from datasets import load_dataset

    name, _, inner = (place.file or "").format(split=split).partition("!")
    if data is None and place.file is None:
        return [dict(row) for row in load_dataset(place.repository, place.config, split=split)]
    if data is None:
        from huggingface_hub import hf_hub_download

        # It stays in the Hub's cache, for runs without network.
        file = Path(hf_hub_download(place.repository, name, repo_type="dataset"))
    else:
        file = _local_file(data / place.folder, split, archive=bool(inner))
    if inner and file.suffix == ".zip":  # datasets refuses to look into archives when the Hub is offline
        with ZipFile(file) as archive, archive.open(inner) as lines:
            return [json.loads(line) for line in lines if line.strip()]
    kind = "parquet" if file.suffix == ".parquet" else "json"
    return [dict(row) for row in load_dataset(kind, data_files=str(file), split="train")]


def _local_file(folder: Path, split: str, *, archive: bool) -> Path:
    names = [folder / f"{split}{suffix}" for suffix in (".jsonl", ".json", ".parquet")]
    for file in [*names, *([Path(f"{folder}.zip")] if archive else [])]:
        if file.is_file():
            return file
    raise UserError(
        f"No {split}.jsonl or {split}.parquet in {folder}. A data folder has one folder a task; "
        "docs/evaluation_tasks.md lists their names and schemas."
    )


def column(row: Row, name: str, table: str) -> Any:
    """A column of a row.

    Raises:
        UserError: the row has no such column; the columns it has are named.
    """
    if name not in row:
        raise UserError(f"A row of '{table}' has no column '{name}', only {sorted(row)}: another schema?")
    return row[name]
