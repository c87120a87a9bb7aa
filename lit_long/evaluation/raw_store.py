"""Raw losses on disk, one safetensors file per model, so that an interrupted evaluation goes on where it stopped.

A file is reused only when its key matches: the model's files (name, size, modification time), the windows' token ids
and the contexts measured. Modification times rather than hashes: hashing 14 GB of weights costs a minute, and a false
"changed" only costs a new measurement.
"""

import hashlib
import json
from pathlib import Path

from torch import Tensor

from lit_long.model.variant import parse_variant

_WEIGHTLESS = {".md", ".png", ".txt", ".lock", ".log"}


def model_key(path: str) -> str:
    """A key that changes with the model's files.

    Args:
        path: A file, a folder, or a Hub id, also with other positions (``MODEL#METHOD``); for a Hub id the folder of
            the cached snapshot counts, so that another commit is another key. An id that is not cached is keyed by its
            name.
    """
    place = parse_variant(path).path  # the whole of ``path`` is in the key below
    root = Path(place)
    if not root.exists():
        root = _cached_snapshot(place) or root
    if root.is_file():
        files = [root]
    else:
        files = sorted(f for f in root.rglob("*") if f.is_file() and f.suffix not in _WEIGHTLESS)
    described: list[list[str | int]] = [[str(path)]]
    for file in files:
        stat = file.stat()
        described.append([file.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns])
    return key_of(described)


def key_of(value: object) -> str:
    """SHA-256 in hex of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def save_raw(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write tensors and metadata to ``path`` in one step: a file that exists is complete."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, metadata=metadata)
    partial.replace(path)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a raw file, empty where there is no readable file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError:
        return {}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a raw file, on the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


def _cached_snapshot(repo_id: str) -> Path | None:
    """The snapshot folder of a Hub id in the local cache, without any network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(repo_id, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None
