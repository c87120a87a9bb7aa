"""What decides whether a corpus is up to date: the sources' settings, and the size and content of their files.

Times do not count, so a copied or touched file is the same input. A file of up to 4 MiB is hashed whole; of a larger
one 16 blocks of 256 KiB are, evenly spread from its first byte to its last, so that terabytes are described in seconds.
The limit: a change of a large file that keeps its size and touches none of these blocks is not seen.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lit_long.data.sources.files import list_files
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
    settings = {key: value for key, value in asdict(source).items() if key != "path"}
    settings["name"] = source.label
    path = Path(str(source.path))
    root = path if path.is_dir() else path.parent
    return {
        "settings": settings,
        "files": [[file.relative_to(root).as_posix(), *identity(file)] for file in list_files(path)[0]],
    }


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
