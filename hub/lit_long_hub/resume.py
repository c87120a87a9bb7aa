"""Which weight files an export that was cut off has finished, so that the next one goes on with the others.

A file counts as finished when the folder's record says that the same checkpoint was being exported in the same way, and
the file has exactly the header and length that are planned: files appear under their names only when they are whole.
"""

import hashlib
import json
from pathlib import Path

from lit_long import __version__
from lit_long_hub.atomic_file import write_json
from lit_long_hub.checkpoint import Checkpoint
from lit_long_hub.convert import WeightPlan, file_header

PROGRESS_NAME = ".lit-long-export.json"


def export_key(source: Checkpoint, plan: WeightPlan, *, base_files: list[Path]) -> str:
    """A hash of everything that decides the bytes of the weight files.

    Args:
        source: The checkpoint; told apart by its files' sizes and times of change.
        plan: What goes into which file.
        base_files: The base model's weights that a LoRA run's are merged with, told apart likewise.
    """
    files = sorted(source.path.iterdir()) if source.path.is_dir() else [source.path]
    seen = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in (*files, *base_files)]
    tensors = [(name, list(value.shape), str(value.dtype)) for name, value in plan.tensors.items()]
    facts = [__version__, seen, tensors, plan.files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def finished_files(folder: Path, plan: WeightPlan, key: str) -> set[str]:
    """Names of the plan's files that an earlier export with this key finished.

    Args:
        folder: The output folder; need not exist.
        plan: What goes into which file.
        key: Of ``export_key``.
    """
    try:
        record = json.loads((folder / PROGRESS_NAME).read_text())
    except (OSError, ValueError):
        return set()
    if not isinstance(record, dict) or record.get("key") != key:
        return set()
    return {name for name in plan.files if _is_whole(folder / name, plan, name)}


def start_record(folder: Path, key: str) -> None:
    """Write down what is being exported."""
    write_json(folder / PROGRESS_NAME, {"writer": "lit-long", "key": key})


def end_record(folder: Path) -> None:
    """The export is done, or is not the model that was trained: the next one into this folder starts anew."""
    (folder / PROGRESS_NAME).unlink(missing_ok=True)


def _is_whole(path: Path, plan: WeightPlan, name: str) -> bool:
    header = file_header(plan, name)
    if not path.is_file():
        return False
    if path.stat().st_size != len(header) + sum(plan.tensors[tensor].nbytes for tensor in plan.files[name]):
        return False
    with path.open("rb") as file:
        return file.read(len(header)) == header
