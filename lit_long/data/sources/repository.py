"""Code repositories: all files of one repository are one document, as in ProLong's long data (arXiv 2410.02660).

The files come in the order of their paths, each after a line ``# File: path``, with an empty line between them.
Left out, and counted by reason: files with other endings, empty, binary (a NUL byte), large or not in UTF-8, and links.
Version control's own folders are no files of the repository.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lit_long.data.sources.files import base_name, is_utf8
from lit_long.data.sources.records import Record, Skipped
from lit_long.data.sources.rows import BadRowError, decode, document, too_long
from lit_long.data.sources.source import Source
from lit_long.data.sources.streams import cannot_read
from lit_long.errors import UserError

VERSION_CONTROL = (".git", ".hg", ".svn", ".bzr")


@dataclass(frozen=True)
class Repository:
    """A repository's folder; ``name`` is its id, ``size`` the bytes of the files that are taken in."""

    folder: str
    name: str
    size: int

    def read(self, source: Source, max_document_bytes: int) -> Iterator[Record]:
        """One document or bad row, and a record for each reason to leave files out."""
        files, skipped = repository_files(Path(self.folder), source)
        try:
            if (size := sum(files.values())) > max_document_bytes:
                raise too_long(size, max_document_bytes)
            pieces = []
            for file in files:
                if text := _text(Path(self.folder, file), skipped):
                    pieces.append(f"# File: {file}\n{text}" + ("" if text.endswith("\n") else "\n"))
            if not pieces:
                raise BadRowError(
                    "empty", "no file to take in; remove the repository or name its endings (file_suffixes)"
                )
            yield document(source, "\n".join(pieces), None, None, self.folder, self.name)
        except BadRowError as error:
            yield error.at(self.folder)
        for reason in sorted(skipped):
            yield Skipped(self.folder, reason, skipped[reason])


def plan_repositories(source: Source, folders: list[Path]) -> Iterator[Repository]:
    """One part for each of the folders, in their order.

    Raises:
        UserError: a folder that cannot be read.
    """
    for folder in folders:
        yield Repository(str(folder), base_name(folder), sum(repository_files(folder, source)[0].values()))


def list_repositories(source: Source) -> tuple[list[Path], int]:
    """The repositories of a source, sorted, and the number of files beside them.

    Raises:
        UserError: the path is no directory, or has none in it.
    """
    path = Path(str(source.path))
    if not path.is_dir():
        what = "is a file" if path.is_file() else "no such directory"
        raise UserError(f"{path}: {what}; kind {source.kind} needs a directory")
    if source.kind == "repository":
        return [path], 0
    try:
        entries = sorted(path.iterdir())
    except OSError as error:
        raise cannot_read(path, error) from error
    folders = [entry for entry in entries if entry.is_dir() and entry.name not in VERSION_CONTROL]
    if not folders:
        raise UserError(f"{path}: no directory in it, so no repository; for a single one give kind: repository")
    return folders, sum(not entry.is_dir() for entry in entries)


def repository_files(folder: Path, source: Source) -> tuple[dict[str, int], Counter[str]]:
    """Path within the folder -> bytes, sorted by path, of the files to take in; reason -> number of those left out.

    Raises:
        UserError: a directory that cannot be read.
    """
    endings = tuple(ending.lower() for ending in source.file_suffixes)
    files: dict[str, int] = {}
    skipped: Counter[str] = Counter()
    below = [folder]
    try:
        while below:
            for entry in os.scandir(here := below.pop()):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in VERSION_CONTROL:
                        below.append(Path(entry.path))
                    continue
                name = (here / entry.name).relative_to(folder).as_posix()
                if not entry.is_file(follow_symlinks=False):
                    skipped["link or no regular file"] += 1
                elif not entry.name.lower().endswith(endings):
                    skipped["other ending"] += 1
                elif (size := entry.stat().st_size) > source.max_file_bytes:
                    skipped["larger than max_file_bytes"] += 1
                elif not is_utf8(name):
                    skipped["name not in UTF-8"] += 1
                else:
                    files[name] = size
    except OSError as error:
        raise cannot_read(error.filename or folder, error) from error
    return dict(sorted(files.items(), key=lambda item: item[0].split("/"))), skipped


def _text(file: Path, skipped: Counter[str]) -> str:
    """The file's text; empty where it is left out."""
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise cannot_read(file, error) from error
    if b"\0" in raw:
        skipped["binary"] += 1
        return ""
    try:
        text = decode(raw)
    except BadRowError:
        skipped["not in UTF-8"] += 1
        return ""
    if not text or text.isspace():
        skipped["empty"] += 1
        return ""
    return text
