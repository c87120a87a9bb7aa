"""Where tensors come from, one at a time: a memory-mapped checkpoint, or a folder or Hub repository of safetensors.

Both answer the same two questions, what is there and give me one, so that the writer holds one tensor in memory
whatever the size of the model.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch.distributed.checkpoint.metadata import Metadata

from lit_long.errors import UserError
from lit_long.model.shard_reader import ShardReader

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


class TensorSpec(NamedTuple):
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightSource(Protocol):
    """A set of named tensors, read one at a time."""

    def specs(self) -> dict[str, TensorSpec]:
        """Names, shapes and dtypes of everything there."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU."""
        ...

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """The same tensor in the order of its elements, in blocks of whole rows; one of them need be in memory."""
        ...


class StoredWeights:
    """Weights of tensors that already are (memory-mapped) in a dict.

    Args:
        tensors: Name to tensor.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def specs(self) -> dict[str, TensorSpec]:
        """Names, shapes and dtypes of the dict."""
        return {name: TensorSpec(tuple(tensor.shape), tensor.dtype) for name, tensor in self._tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        """The tensor itself, not a copy."""
        return self._tensors[name]

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """The tensor itself, as one block."""
        yield self.read(name)


class ShardedWeights:
    """Weights of a sharded checkpoint; the optimizer's states beside them are never read.

    Args:
        reader: The checkpoint's reader.
        names: Name of a weight to its name in the checkpoint.
    """

    def __init__(self, reader: ShardReader, names: Mapping[str, str]) -> None:
        self._reader, self._names = reader, names

    def specs(self) -> dict[str, TensorSpec]:
        """Names, shapes and dtypes from the table of contents."""
        found = {name: self._reader.tensors[stored] for name, stored in self._names.items()}
        return {name: TensorSpec(tuple(entry.size), entry.properties.dtype) for name, entry in found.items()}

    def read(self, name: str) -> torch.Tensor:
        """Put one tensor together from the files that hold its pieces."""
        return self._reader.read(self._names[name])

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """The pieces of a tensor, as the ranks stored them."""
        return self._reader.blocks(self._names[name])

    def place(self, name: str) -> tuple[Path, Metadata, str]:
        """The folder, its table of contents and the tensor's name there, for another reader."""
        return self._reader.path, self._reader.table, self._names[name]


class SafetensorsWeights:
    """Weights of safetensors files.

    Args:
        files: The files that together hold the model.

    Raises:
        UserError: A file is missing or is not safetensors.
    """

    def __init__(self, files: list[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self.files = files
        self._handles = {}
        for path in files:
            try:
                handle = safe_open(path, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{path} cannot be read as safetensors ({error}). Fetch the base model again."
                ) from error
            for name in handle.keys():  # noqa: SIM118 (not a dict)
                self._handles[name] = handle

    def specs(self) -> dict[str, TensorSpec]:
        """Names, shapes and dtypes from the files' headers."""
        return {
            name: TensorSpec(tuple(handle.get_slice(name).get_shape()), _DTYPES[handle.get_slice(name).get_dtype()])
            for name, handle in self._handles.items()
        }

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor from its file."""
        return self._handles[name].get_tensor(name)

    def blocks(self, name: str) -> Iterator[torch.Tensor]:
        """The tensor as one block."""
        yield self.read(name)


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def safetensors_of(model: str, revision: str | None = None) -> SafetensorsWeights:
    """Open the safetensors of a model folder, or of a Hub repository (from the cache, else downloaded).

    Args:
        model: A folder or a Hub id.
        revision: Branch, tag or commit of a Hub repository.

    Raises:
        UserError: Nothing there, or no safetensors.
    """
    index = model_file(model, INDEX_NAME, revision)
    if index is not None:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [model_file(model, name, revision) for name in names]
    else:
        names, files = [SINGLE_NAME], [model_file(model, SINGLE_NAME, revision)]
    missing = [name for name, file in zip(names, files, strict=True) if file is None]
    if missing:
        raise UserError(
            f"The base model {model} has no {missing[0]}: its weights are needed to merge the LoRA adapter. "
            "Point --base-model to a folder or Hub id with safetensors weights."
        )
    return SafetensorsWeights([file for file in files if file is not None])


def model_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """One file of a model folder or Hub repository; None if the model has no such file.

    Raises:
        UserError: ``model`` is neither a folder nor a repository that can be reached or is in the cache.
    """
    if Path(model).is_dir():
        path = Path(model, name)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except LocalEntryNotFoundError as error:
        # Off line, a file that is not in the cache of a cached repository is taken to be absent from it.
        if cached_folder(model, revision) is not None:
            return None
        raise UserError(_unreachable(model, error)) from error
    except EntryNotFoundError:
        return None
    except (OSError, HFValidationError) as error:
        raise UserError(_unreachable(model, error)) from error


def cached_folder(model: str | None, revision: str | None = None) -> Path | None:
    """The folder of a model on this machine: itself, or its snapshot in the Hub cache; None where there is neither."""
    if not model:
        return None
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in ("config.json", "tokenizer_config.json"):
        try:
            found = try_to_load_from_cache(model, name, revision=revision)
        except HFValidationError:
            return None
        if isinstance(found, str):
            return Path(found).parent
    return None


def _unreachable(model: str, error: Exception) -> str:
    return (
        f"{model!r} is neither a folder here nor a Hub model that can be read ({type(error).__name__}). "
        "Give the folder that holds it now, or check the network and the id."
    )
