"""Rows of public benchmarks through `datasets`: from the Hub, or from a folder where there is no network.

Nothing is run from a dataset's repository: `datasets` 4 dropped loading scripts, so SCROLLS, ZeroSCROLLS and L-Eval
are read as the JSON lines (in zip archives) that their repositories hold anyway.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        data: a local data folder, read instead of the Hub: ``DATA/<place.folder>/<split>.jsonl`` or ``.parquet``.

    Raises:
        UserError: nothing there, the Hub cannot be reached, or the file is not readable.
    """
    from datasets import load_dataset

    source = str(data / place.folder / split) if data else f"Hub dataset {place.repository}"
    try:
        if data is not None:
            file = _local_file(data / place.folder, split)
            kind = "parquet" if file.suffix == ".parquet" else "json"
            table = load_dataset(kind, data_files=str(file), split="train")
        elif place.file is not None:
            table = load_dataset("json", data_files=_address(place, split), split="train")
        else:
            table = load_dataset(place.repository, place.config, split=split)
        rows = [dict(row) for row in table]
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


def _local_file(folder: Path, split: str) -> Path:
    for suffix in (".jsonl", ".json", ".parquet"):
        if (folder / f"{split}{suffix}").is_file():
            return folder / f"{split}{suffix}"
    raise UserError(
        f"No {split}.jsonl or {split}.parquet in {folder}. A data folder has one folder a task; "
        "docs/evaluation_tasks.md lists their names and schemas."
    )


def _address(place: HubRows, split: str) -> str:
    assert place.file is not None
    name, _, inner = place.file.format(split=split).partition("!")
    remote = f"hf://datasets/{place.repository}/{name}"
    return f"zip://{inner}::{remote}" if inner else remote


def column(row: Row, name: str, table: str) -> Any:
    """A column of a row.

    Raises:
        UserError: the row has no such column; the columns it has are named.
    """
    if name not in row:
        raise UserError(f"A row of '{table}' has no column '{name}', only {sorted(row)}: another schema?")
    return row[name]
