"""The state of a Hub for tests: repositories with commits, branches and tags; large files by their sha256."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.utils.sha import git_hash


@dataclass(frozen=True)
class Entry:
    """One file of a tree: its bytes, or the sha256 of a large file."""

    size: int
    content: bytes | None = None
    sha256: str | None = None

    @property
    def oid(self):
        if self.content is not None:
            return git_hash(self.content)
        return hashlib.sha1(f"lfs {self.sha256}".encode()).hexdigest()

    def as_json(self, path, xet=None):
        entry = {"type": "file", "path": path, "oid": self.oid, "size": self.size}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 130}
            if xet:
                entry["xetHash"] = xet
        return entry


@dataclass
class Commit:
    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    tree: dict


@dataclass
class Repo:
    type: str
    id: str
    private: bool
    commits: dict = field(default_factory=dict)
    branches: dict = field(default_factory=dict)
    tags: dict = field(default_factory=dict)

    def commit(self, title, tree, *, author, message="", branch="main"):
        parent = self.branches.get(branch)
        oid = hashlib.sha1(f"{self.id} {parent} {title} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, message, author, dict(tree))
        self.branches[branch] = oid
        return self.commits[oid]

    def resolve(self, revision):
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def head(self):
        return self.commits[self.branches["main"]]

    def history(self):
        commit, found = self.head(), []
        while commit:
            found.append(commit)
            commit = self.commits.get(commit.parent)
        return found


class Store:
    """Everything a test Hub holds.

    Attributes:
        users: token -> (user name, ``write`` or ``read``).
        repos: (type, id) -> Repo.
        blobs: folder of large files, each named by its sha256.
    """

    def __init__(self, folder):
        self.users = {
            "hf_writer": ("acme", "write"),
            "hf_reader": ("acme", "read"),
            "hf_stranger": ("someone", "write"),
        }
        self.repos = {}
        self.blobs = Path(folder, "blobs")
        self.blobs.mkdir(parents=True)

    def create(self, kind, name, *, private):
        repo = Repo(kind, name, private)
        attributes = b"*.safetensors filter=lfs\n"
        repo.commit("initial commit", {".gitattributes": Entry(len(attributes), attributes)}, author=name.split("/")[0])
        self.repos[kind, name] = repo
        return repo

    def blob(self, sha256):
        path = self.blobs / sha256
        return path if path.is_file() else None

    def tree_of(self, contents):
        """Entries for a dict of path to bytes; safetensors are large files."""
        tree = {}
        for path, content in contents.items():
            if path.endswith(".safetensors"):
                sha256 = hashlib.sha256(content).hexdigest()
                (self.blobs / sha256).write_bytes(content)
                tree[path] = Entry(len(content), sha256=sha256)
            else:
                tree[path] = Entry(len(content), content)
        return tree

    def bytes_of(self, entry):
        return entry.content if entry.content is not None else self.blob(entry.sha256).read_bytes()
