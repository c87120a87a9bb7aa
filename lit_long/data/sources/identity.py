"""What decides whether a corpus is up to date: the sources' settings, and the size and content of their files.

Times do not count, so a copied or touched file is the same input. A file of up to 4 MiB is hashed whole; of a larger
one 16 blocks of 256 KiB are, evenly spread from its first byte to its last, so that terabytes are described in seconds.
The limit: a change of a large file that keeps its size and touches none of these blocks is not seen.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_long.data.sources.files import base_name, list_files, walk
from lit_long.data.sources.hub import resolved_revision
from lit_long.data.sources.repository import list_repositories, repository_files
from lit_long.data.sources.source import Source
from lit_long.data.sources.streams import cannot_read

BLOCKS, BLOCK_BYTES = 16, 256 << 10


def describe_inputs(sources: Sequence[Source]) -> list[dict[str, Any]]:
    """One entry a source: ``settings`` (without the place), and ``files`` [[path within the source, bytes, identity]].

    Raises:
        UserError: a source that is not there, or a file that cannot be read.
    """
    return [_described(source) for source in sources]


def _described(source: Source) -> dict[str, Any]:
    settings = {key: value for key, value in asdict(source).items() if value is not None and key != "path"}
    settings["name"] = source.label
    if source.hub is not None:
        if not Path(source.hub).is_dir():
            return {"settings": {**settings, "revision": resolved_revision(source.hub, source.revision)}, "files": []}
        files = _files(Path(source.hub), sorted(walk(Path(source.hub))))
    elif source.kind in ("repository", "repositories"):
        settings["file_suffixes"] = sorted(source.file_suffixes)
        files = [_repository(folder, source) for folder in list_repositories(source)[0]]
        return {"settings": settings, "files": files}
    else:
        path = Path(str(source.path))
        files = _files(path if path.is_dir() else path.parent, list_files(path)[0])
    del settings["file_suffixes"], settings["max_file_bytes"]  # they are for repositories
    return {"settings": settings, "files": files}


def _files(root: Path, files: list[Path]) -> list[list[Any]]:
    return [[file.relative_to(root).as_posix(), *identity(file)] for file in files]


def _repository(folder: Path, source: Source) -> list[Any]:
    """One entry for all files that are taken in; most are small, so they are read whole."""
    files, _ = repository_files(folder, source)
    whole = hashlib.sha256()
    for name in files:
        whole.update(json.dumps([name, *identity(folder / name)]).encode())
    return [base_name(folder), sum(files.values()), f"sha256-files:{whole.hexdigest()}"]


def identity(file: Path) -> tuple[int, str]:
    """Bytes and content identity of a file (see the module); the same for every copy of it.

    Raises:
        UserError: it cannot be read.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            if size <= BLOCKS * BLOCK_BYTES:
                return size, f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
            sample = hashlib.sha256()
            for block in range(BLOCKS):
                stream.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
                sample.update(stream.read(BLOCK_BYTES))
            return size, f"sha256-sample:{sample.hexdigest()}"
    except OSError as error:
        raise cannot_read(file, error) from error
