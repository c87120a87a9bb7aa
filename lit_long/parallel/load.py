"""Pretrained weights into a sharded model: each rank reads only its own share of the safetensors files.

No process ever holds more than the shards that it keeps and one slice on its way. All headers are looked at before any
weight is read, so a tensor that is missing or has another shape stops every rank, at once, with the same message.
"""

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard

from lit_long.errors import UserError
from lit_long.model.forward import unwrapped

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class LoadReport:
    """What was read.

    Attributes:
        files: of the weights.
        tensors: of the model that were filled.
        bytes_read: by this rank.
        unused: names in the files that the model has no place for.
        left_out: parameters that no file has and none should (adapters).
    """

    files: int
    tensors: int
    bytes_read: int
    unused: tuple[str, ...]
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        unused = f", {len(self.unused)} in the files not used (first: {self.unused[0]})" if self.unused else ""
        return f"{self.tensors} tensors from {self.files} file(s), {self.bytes_read / 1e9:.2f} GB by this rank{unused}"


def load_shards(model: Any, name: str, *, revision: str | None = None) -> LoadReport:
    """Fill a sharded causal LM from safetensors.

    Args:
        model: a transformers causal LM, bare or in a peft wrapper, materialised (``to_empty``) after ``fully_shard``;
            parameters are DTensors split in their first dimension, or plain tensors, which are filled whole. Tied
            tensors are one parameter, filled once.
        name: folder or Hub id.
        revision: Hub revision.

    Raises:
        UserError: no safetensors there, a broken file, or a tensor that is missing or has another shape (named).
    """
    files = _weight_files(name, revision)
    shapes = _headers(files)
    prefix = f"{getattr(unwrapped(model), 'base_model_prefix', '')}."
    tensors = dict((*model.named_parameters(), *_persistent_buffers(model)))
    wanted: dict[Path, list[tuple[str, torch.Tensor]]] = defaultdict(list)
    missing, used, left_out = [], set(), []
    for own_name, tensor in tensors.items():
        if "lora_" in own_name:
            left_out.append(own_name)
            continue
        plain = _name_in_files(own_name)
        # a file of the decoder alone has no prefix
        key = next((k for k in (plain, plain.removeprefix(prefix)) if k in shapes), None)
        if key is None:
            missing.append(plain)
            continue
        file, shape = shapes[key]
        if list(tensor.shape) != shape:
            raise UserError(
                f"{file}: tensor {key} is {shape}, the model's is {list(tensor.shape)}; the weights are not of this "
                f"config (config.json beside them)"
            )
        used.add(key)
        wanted[file].append((key, tensor))
    if missing:
        raise UserError(
            f"model {name!r} lacks {len(missing)} tensors of a {unwrapped(model).config.model_type} model (first "
            f"{missing[:2]}; the files have {sorted(shapes)[:2]} ...). Is it the whole model, of this type? One whose "
            f"files transformers converts while it reads them cannot be loaded in shards: save it once with "
            f"save_pretrained, or train it without sharding"
        )
    read = sum(_fill_from(file, pairs) for file, pairs in wanted.items())
    unused = tuple(sorted(set(shapes) - used))
    return LoadReport(len(files), len(used), read, unused, tuple(left_out))


def restore_buffers(model: nn.Module) -> None:
    """Give buffers that are in no file (the rotary frequencies) their values, after ``to_empty``.

    Raises:
        UserError: a buffer that cannot be computed from the config alone (named).
    """
    for name, module in model.named_modules():
        lost = [n for n in module._non_persistent_buffers_set if module._buffers.get(n) is not None]
        if not lost:
            continue
        config = getattr(module, "config", None)
        if "inv_freq" not in lost or config is None or any(True for _ in module.parameters()):
            raise UserError(
                f"{name or type(module).__name__} has buffers {sorted(lost)} that are in no file, and no rotary "
                f"frequencies; a model with such buffers cannot be loaded in shards yet, train it without sharding"
            )
        kind: Any = type(module)
        fresh = dict(kind(config).named_buffers(recurse=False))  # on the CPU, as transformers computes them
        for buffer in lost:
            module._buffers[buffer] = fresh[buffer].to(module._buffers[buffer].device)


def _name_in_files(name: str) -> str:
    """A parameter's name without what peft put around it."""
    for part in ("base_model.model.", ".base_layer", ".modules_to_save.default", ".original_module"):
        name = name.replace(part, "", 1)
    return name


def _persistent_buffers(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    found = []
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                found.append((f"{prefix}.{name}" if prefix else name, buffer))
    return found


def _weight_files(name: str, revision: str | None) -> list[Path]:
    folder = Path(name)
    if folder.suffix == ".gguf":
        raise UserError(f"{name}: GGUF files cannot be read in shards; save the model as safetensors once")
    if not folder.is_dir():
        folder = _download(name, revision)
    index = folder / _INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [folder / file for file in names]
        if absent := [file.name for file in files if not file.is_file()]:
            raise UserError(f"{index} names {len(files)} files, and {len(absent)} are not there (first {absent[:2]})")
        return files
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    raise UserError(f"{folder}: neither {_SINGLE} nor {_INDEX} is there; weights must be safetensors")


def _download(name: str, revision: str | None) -> Path:
    """From the Hub's cache; what is missing there is fetched by one process of each node."""
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetch(**options: Any) -> Path:
        try:
            index = Path(hf_hub_download(name, _INDEX, revision=revision, **options))
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (EntryNotFoundError, FileNotFoundError):
            files = [_SINGLE]
        return Path(snapshot_download(name, revision=revision, allow_patterns=[_INDEX, *files], **options))

    first = int(os.environ.get("LOCAL_RANK", "0")) == 0
    failed: Exception | None = None
    folder: Path | None = None
    try:
        folder = fetch() if first else None
    except Exception as error:  # the others wait for this process
        failed = error
    if dist.is_initialized():
        dist.barrier()
    try:
        if failed is not None:
            raise failed
        return folder if folder is not None else fetch(local_files_only=True)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"model {name!r} cannot be fetched: {reason}. Give a Hub id or a folder") from error


def _headers(files: list[Path]) -> dict[str, tuple[Path, list[int]]]:
    """Name -> (file, shape) of every tensor; reads no weights."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - no dict
                    found[key] = (file, list(opened.get_slice(key).get_shape()))
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: not a readable safetensors file ({error}); fetch or write it again") from error
    return found


@torch.no_grad()
def _fill_from(file: Path, pairs: list[tuple[str, torch.Tensor]]) -> int:
    from safetensors import safe_open

    read = 0
    with safe_open(file, framework="pt") as opened:
        for key, tensor in pairs:
            local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
            if not local.numel():
                continue
            source = opened.get_slice(key)
            if not local.ndim:
                part = opened.get_tensor(key)
            else:
                begin = _first_row(tensor) if isinstance(tensor, DTensor) else 0
                part = source[begin : begin + local.shape[0]]
            read += part.numel() * part.element_size()
            local.copy_(part)
    return read


def _first_row(tensor: DTensor) -> int:
    """Where this rank's share begins in the first dimension."""
    begin, rows = 0, int(tensor.shape[0])
    for dimension, placement in enumerate(tensor.placements):
        if isinstance(placement, Replicate):
            continue
        assert isinstance(placement, Shard), f"a parameter is placed {placement}"
        assert placement.dim == 0, f"a parameter is split in dimension {placement.dim}"
        ranks, rank = tensor.device_mesh.size(dimension), tensor.device_mesh.get_local_rank(dimension)
        chunk = -(-rows // ranks)  # torch.chunk's sizes
        offset = min(rank * chunk, rows)
        begin, rows = begin + offset, min(chunk, rows - offset)
    return begin
