"""Writes weights as safetensors shards with at most one tensor in memory at a time.

A safetensors file is a length, a JSON header and the raw bytes in the header's order, so the header can be written
before any tensor is read. Peak memory is the largest stored piece of a tensor, and a cast copy of 64 MiB; nothing of a
memory-mapped file. The index is written after every shard, so an interrupted export has none.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from lit_long.errors import UserError
from lit_long_hub.atomic_file import atomic_file, write_json
from lit_long_hub.weights import INDEX_NAME, TensorSpec, WeightSource

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the steps done and the steps in all."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PIECE = 16 * 2**20
"""Elements that are cast and written at a time: 64 MiB as float32."""

_HEADER_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class WeightPlan:
    """Which tensor goes into which file, known before any tensor is read."""

    tensors: dict[str, torch.Tensor]
    """Name in the release to a meta tensor of the shape and dtype it is written with."""

    source_names: dict[str, str]
    """Name in the release to name in the source."""

    files: dict[str, list[str]]
    """File name to the tensors in it."""

    dtype: torch.dtype
    """Of floating-point tensors."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def bytes_without(self, files: Set[str]) -> int:
        """Bytes of the tensors that are in none of ``files``."""
        return sum(self.tensors[n].nbytes for name, members in self.files.items() if name not in files for n in members)

    def file_bytes(self, name: str) -> int:
        """Size of one file, header included."""
        return len(file_header(self, name)) + sum(self.tensors[member].nbytes for member in self.files[name])

    @property
    def parameters(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.numel() for tensor in self.tensors.values())


def release_dtype(specs: Mapping[str, TensorSpec], wanted: str | None) -> torch.dtype:
    """The dtype of the release's floating-point tensors: the one asked for, else one that loses nothing.

    Args:
        specs: The tensors to write.
        wanted: ``float32``, ``bfloat16``, ``float16`` or None.

    Raises:
        UserError: Another name, or tensors of a dtype that a release does not have.
    """
    if wanted is not None:
        if wanted not in DTYPES:
            raise UserError(f"dtype is {wanted!r}, allowed are {', '.join(DTYPES)}.")
        return DTYPES[wanted]
    found = {spec.dtype for spec in specs.values() if spec.dtype.is_floating_point}
    kept = found.pop() if found else torch.float32
    for dtype in found:
        kept = torch.promote_types(kept, dtype)
    if kept not in DTYPES.values():
        raise UserError(f"The weights are {kept}: choose the release's dtype, one of {', '.join(DTYPES)}.")
    return kept


def plan_weights(
    specs: Mapping[str, TensorSpec], names: Mapping[str, str], *, dtype: torch.dtype, max_shard_size: int | str
) -> WeightPlan:
    """Share tensors out over files.

    Args:
        specs: The source's tensors.
        names: Name in the release to name in the source, in the order of the files.
        dtype: Of floating-point tensors; integer tensors keep theirs.
        max_shard_size: Bytes of a file, an integer or text such as ``5GB`` (decimal); a larger tensor gets its own.

    Raises:
        UserError: A ``max_shard_size`` that is no size.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    tensors = {
        stored: torch.empty(specs[name].shape, dtype=_cast(specs[name].dtype, dtype), device="meta")
        for stored, name in names.items()
    }
    try:
        split = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    except ValueError as error:
        raise UserError(f"max_shard_size is {max_shard_size!r}: {error} Write for example 5GB or 500MB.") from error
    return WeightPlan(tensors, dict(names), split.filename_to_tensors, dtype)


def write_weights(
    plan: WeightPlan,
    source: WeightSource,
    folder: Path,
    *,
    progress: Progress,
    finished: Set[str] = frozenset(),
) -> list[str]:
    """Stream tensors from ``source`` into ``model*.safetensors`` files, and write their index if there are several.

    Args:
        plan: What goes where.
        source: Where the tensors are read.
        folder: Where to write; exists.
        progress: Told about every tensor.
        finished: Files that are there already and are left as they are.

    Returns:
        Names of the files written.

    Raises:
        UserError: A tensor with NaN or infinity in it.
    """
    done = 0
    for file_name, members in plan.files.items():
        if file_name in finished:
            done += len(members)
            progress("Writing weights", done, len(plan.tensors))
            continue
        for _ in write_file(plan, source, folder, file_name):
            done += 1
            progress("Writing weights", done, len(plan.tensors))
    return [*plan.files, *write_index(plan, folder)]


def write_file(plan: WeightPlan, source: WeightSource, folder: Path, file_name: str) -> Iterator[str]:
    """Stream the tensors of one file; it is there, whole, when the iteration has ended.

    Args:
        plan: What goes where.
        source: Where the tensors are read.
        folder: Where to write; exists.
        file_name: One of ``plan.files``.

    Yields:
        The name of each tensor that is written.

    Raises:
        UserError: A tensor with NaN or infinity in it.
    """
    with atomic_file(folder / file_name) as file:
        file.write(file_header(plan, file_name))
        for name in _ordered(plan, file_name):
            _write_tensor(file, name, source.blocks(plan.source_names[name]), plan.tensors[name])
            yield name


def write_index(plan: WeightPlan, folder: Path) -> list[str]:
    """Write the index of several files; returns its name, or nothing where there is one file.

    Args:
        plan: What goes where.
        folder: Where to write; exists.
    """
    if len(plan.files) == 1:
        return []
    metadata = {"total_size": plan.total_bytes, "total_parameters": plan.parameters}
    weight_map = {name: file_name for file_name, members in plan.files.items() for name in members}
    write_json(folder / INDEX_NAME, {"metadata": metadata, "weight_map": weight_map})
    return [INDEX_NAME]


def file_header(plan: WeightPlan, file_name: str) -> bytes:
    """The first bytes of a weight file: length and JSON header, as safetensors wants them.

    Args:
        plan: What goes where.
        file_name: One of ``plan.files``.
    """
    return _header({name: plan.tensors[name] for name in _ordered(plan, file_name)})


def _ordered(plan: WeightPlan, file_name: str) -> list[str]:
    """Wider elements first keeps every tensor aligned to its own element size, as safetensors' writer does."""
    return sorted(plan.files[file_name], key=lambda name: -plan.tensors[name].element_size())


def _cast(stored: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    return wanted if stored.is_floating_point else stored


def _header(tensors: Mapping[str, torch.Tensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        entries[name] = {
            "dtype": _HEADER_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _write_tensor(file: BinaryIO, name: str, blocks: Iterable[torch.Tensor], planned: torch.Tensor) -> None:
    """Cast and write a tensor piece by piece, so that no cast copy of all of it is in memory."""
    written = 0
    for block in blocks:
        for values in block.detach().contiguous().reshape(-1).split(_PIECE):
            piece = values.to(planned.dtype)
            _refuse_infinite(name, piece)
            written += file.write(piece.view(torch.uint8).numpy().data)
    assert written == planned.nbytes, f"{name}: planned {planned.nbytes} bytes, read {written}"


def _refuse_infinite(name: str, piece: torch.Tensor) -> None:
    if not piece.is_floating_point() or not piece.numel():
        return
    # Both ends are NaN if any value is; unlike isfinite() this makes no copy, and it is ten times as fast.
    if not all(bool(torch.isfinite(end)) for end in torch.aminmax(piece)):
        raise UserError(
            f"{name} holds NaN or infinity as {str(piece.dtype).removeprefix('torch.')}: the run diverged, or "
            "the values do not fit this dtype (float16 ends at 65,504). Try bfloat16 or float32."
        )
