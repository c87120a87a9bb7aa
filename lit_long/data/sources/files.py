"""The files of a source, in an order that does not depend on the file system."""

import os
from pathlib import Path

from lit_long.errors import UserError

TEXT_SUFFIXES = (".txt", ".md")
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PARQUET_SUFFIXES = (".parquet",)
KNOWN_SUFFIXES = TEXT_SUFFIXES + JSONL_SUFFIXES + PARQUET_SUFFIXES


def list_files(path: Path) -> tuple[list[Path], int]:
    """Readable files at ``path`` (itself, or everything readable below it), sorted, and how many others are there.

    Links to directories are followed.

    Raises:
        UserError: nothing there, nothing of a known kind, or a directory or link that cannot be read.
    """
    if path.is_file():
        if not path.name.endswith(KNOWN_SUFFIXES):
            raise UserError(f"{path}: unknown kind of file; known are {', '.join(KNOWN_SUFFIXES)}")
        return [path], 0
    if not path.is_dir():
        if path.is_symlink():
            raise UserError(f"{path}: a link to {os.readlink(path)}, which is not there; mend the link")
        raise UserError(f"{path}: no such file or directory; give a source that exists, relative to the current folder")
    files, others = [], 0
    for file in walk(path):
        if not file.name.endswith(KNOWN_SUFFIXES):
            others += 1
        elif file.is_file():
            if not is_utf8(name := str(file.relative_to(path))):
                raise UserError(f"{path}: the file name {name!a} is not in UTF-8; rename it")
            files.append(file)
        else:
            raise UserError(f"{file}: a broken link or no regular file; mend or remove it")
    if not files:
        hint = "; for source code give kind: repository or repositories" if others else ""
        raise UserError(f"{path}: no document in this directory; looked for {', '.join(KNOWN_SUFFIXES)}{hint}")
    return sorted(files), others


def base_name(path: Path | str) -> str:
    """The last part of a path, also of "." and "..", without following links."""
    return os.path.basename(os.path.abspath(path))


def is_utf8(name: str) -> bool:
    """Whether a file's name, as Python gives it, can be written to a corpus."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def walk(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> list[Path]:
    """Everything below ``folder`` that is no directory; links to directories are followed, but never in a circle."""
    try:
        stat = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror or error})") from error
    if (here := (stat.st_dev, stat.st_ino)) in above:
        raise UserError(f"{folder}: a link back to a directory above it; remove the link")
    found = []
    for entry in entries:
        if entry.is_dir():
            found += walk(folder / entry.name, above | {here})
        else:
            found.append(folder / entry.name)
    return found
