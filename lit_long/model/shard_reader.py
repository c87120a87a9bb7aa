"""Reads shards of a checkpoint one tensor at a time, and their table of contents without running code from it.

PyTorch writes the table (``.metadata``) as a pickle and reads it with ``pickle.load``, which runs whatever the file
says. Here only the classes that such a table is made of are let in; anything else is refused by name.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from lit_long.errors import UserError

_ALLOWED = {
    "torch": {"Size", *(name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "pathlib": {"PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"},
    "pathlib._local": {"PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"},
    "collections": {"OrderedDict"},
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise UserError(
                f"its .metadata asks for {module}.{name}, which no table of contents of a checkpoint holds: it may be "
                "made to run code. Nothing of it was run; do not trust this checkpoint."
            )
        return super().find_class(module, name)


class ShardReader(dcp.FileSystemReader):
    """PyTorch's reader of a checkpoint folder, with a table of contents that is read once and runs nothing.

    Args:
        path: The folder.

    Raises:
        UserError: A table that is damaged, asks for foreign code, or points out of the folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._table = _read_table(path)

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The table of contents."""
        self._table.storage_meta = self._table.storage_meta or StorageMeta()
        self._table.storage_meta.load_id = self.load_id
        return self._table

    def tensors(self) -> dict[str, TensorStorageMetadata]:
        """Name in the checkpoint to shape (``size``) and dtype (``properties.dtype``) of every tensor."""
        found = self._table.state_dict_metadata.items()
        return {name: entry for name, entry in found if isinstance(entry, TensorStorageMetadata)}

    def read(self, names: list[str]) -> dict[str, torch.Tensor]:
        """Read tensors whole, on the CPU; beside them one stored piece is in memory at a time.

        Args:
            names: Names in the checkpoint.
        """
        specs = self.tensors()
        tensors: dict[str, Any] = {
            name: torch.empty(specs[name].size, dtype=specs[name].properties.dtype) for name in names
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(no_dist|single process|not initialized).*")
            planner = DefaultLoadPlanner(flatten_state_dict=False)
            dcp.load(tensors, storage_reader=self, planner=planner, no_dist=True)
        return tensors


def _read_table(path: Path) -> Metadata:
    try:
        with (path / ".metadata").open("rb") as file:
            table = _Unpickler(file).load()
        files = {str(info.relative_path) for info in table.storage_data.values()}
        assert isinstance(table, Metadata)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, pickle.UnpicklingError, EOFError, AttributeError, AssertionError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has a table of contents (.metadata) that cannot be read ({type(error).__name__}): it may be cut "
            "short. Try an older checkpoint of the run."
        ) from error
    if outside := sorted(name for name in files if Path(name).name != name):
        raise UserError(f"{path}: its .metadata points to {outside[0]}, outside the folder. Do not trust it.")
    return table
