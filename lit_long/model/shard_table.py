"""The table of contents of a sharded checkpoint, read without running code from it.

PyTorch writes it (``.metadata``) as a pickle and reads it with ``pickle.load``, which runs whatever the file says. Here
only the classes that such a table is made of are let in; anything else is refused by name.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata

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


def read_table(path: Path) -> Metadata:
    """Read the table of contents of a checkpoint folder.

    Args:
        path: The folder.

    Raises:
        UserError: A table that is damaged, asks for foreign code, or points out of the folder.
    """
    try:
        with (path / ".metadata").open("rb") as file:
            table = _Unpickler(file).load()
        files = {str(info.relative_path) for info in table.storage_data.values()}
        assert isinstance(table, Metadata)
        assert isinstance(table.state_dict_metadata, dict)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise UserError(
            f"{path} has a table of contents (.metadata) that cannot be read ({type(error).__name__}): it may be cut "
            "short. Try an older checkpoint of the run."
        ) from error
    if outside := sorted(name for name in files if Path(name).name != name):
        raise UserError(f"{path}: its .metadata points to {outside[0]}, outside the folder. Do not trust it.")
    return table
