"""Files that exist whole or not at all: written under a temporary name, flushed to disk, then renamed.

The file is opened by Python's own ``open``, so that its mode follows the umask (usually 0644); safetensors' and
tempfile's writers leave 0600, which a web server or a colleague cannot read.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for writing bytes; it appears under its name only when the block ends without an exception."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity are refused, for they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def copy_file(source: Path, target: Path) -> Path:
    """Copy a file's content (not its mode) to ``target``, atomically, and return ``target``."""
    with source.open("rb") as original, atomic_file(target) as copy:
        shutil.copyfileobj(original, copy)
    return target
