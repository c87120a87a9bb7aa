"""What a repository holds at a commit, and whether files here are the same, byte for byte, by their hashes."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_CHUNK = 16 * 2**20


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository at a commit."""

    path: str
    """Path within the repository."""

    size: int
    """Bytes."""

    sha256: str | None
    """Of the content, for large files; None where the Hub keeps the file in git."""

    git_oid: str
    """git's blob hash, of the content where ``sha256`` is None."""


def remote_tree(api: "HfApi", repo_id: str, *, kind: str, revision: str) -> dict[str, RemoteFile]:
    """Every file of a repository at a revision, by path.

    Args:
        api: The client.
        repo_id: ``organisation/name``.
        kind: ``model`` or ``dataset``.
        revision: Branch, tag or commit.
    """
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo_id, repo_type=kind, revision=revision, recursive=True)
    return {
        entry.path: RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in entries
        if isinstance(entry, RepoFile)
    }


def same_content(remote: RemoteFile, *, size: int, sha256: str, git_oid: str) -> bool:
    """Whether a file with these hashes is the remote one."""
    return remote.size == size and (remote.sha256 == sha256 if remote.sha256 else remote.git_oid == git_oid)


def content_hashes(content: Path | bytes) -> tuple[int, str, str]:
    """Size in bytes, sha256 and git's blob hash of a file or of bytes; a file is read once, in pieces."""
    size = len(content) if isinstance(content, bytes) else content.stat().st_size
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    if isinstance(content, bytes):
        sha256.update(content)
        git.update(content)
    else:
        with content.open("rb") as file:
            while piece := file.read(_CHUNK):
                sha256.update(piece)
                git.update(piece)
    return size, sha256.hexdigest(), git.hexdigest()


def matches(path: Path, remote: RemoteFile) -> bool:
    """Whether a file on disk is the remote one; False where it is missing."""
    if not path.is_file() or path.stat().st_size != remote.size:
        return False
    size, sha256, git_oid = content_hashes(path)
    return same_content(remote, size=size, sha256=sha256, git_oid=git_oid)
