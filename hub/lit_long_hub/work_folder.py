"""The folder in which a release is converted while it is published: one weight file at a time, gone afterwards."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_long.errors import UserError

_MARK = ".lit-long-push"
_SMALL_FILES = 100_000_000
"""Bytes left for tokenizer, card and plots, beside the weight file."""


@contextmanager
def work_folder(path: Path, *, largest: int) -> Iterator[Path]:
    """An empty folder for this run alone, removed when the block ends; what a killed run left is cleared away first.

    Args:
        path: The folder: new, empty or left by an earlier run.
        largest: Bytes of the largest weight file.

    Yields:
        The folder.

    Raises:
        UserError: It holds something else, another run works in it, it cannot be written, or too little space is free.
    """
    mark = path / _MARK
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file. Give another folder with --work-dir.")
    if path.is_dir() and not mark.is_file() and any(path.iterdir()):
        raise UserError(f"{path} is not empty and not left by an earlier push. Give a new or empty --work-dir.")
    ours = mark.is_file() or not path.is_dir()
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(mark, os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}). Weight files are converted there one at a time: give a "
            "folder for them with --work-dir."
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"Another push works in {path}. Wait for it, or give another --work-dir.") from None
        try:
            _clear(path)
            free = shutil.disk_usage(path).free
            if free < largest + _SMALL_FILES:
                raise UserError(
                    f"{path} has {free / 1e9:.2f} GB free; one weight file needs {largest / 1e9:.2f} GB, and 0.1 GB "
                    "more. Free space, give another --work-dir or a smaller --max-shard-size. Nothing was sent."
                )
            yield path
        finally:
            _clear(path)
            mark.unlink()
            if ours:
                path.rmdir()
    finally:
        os.close(descriptor)


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == _MARK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
