"""Fetches a repository into a folder: only kinds of files that run nothing, every byte checked, all of it or nothing.

Nothing of what is fetched is executed, imported or unpickled, and the fetched folder is never given to a reader of
training checkpoints (whose metadata is a pickle). Files go to ``.lit-long-pull/`` inside the folder first and are moved
into place once all are there and right, so the folder holds the old release, or the new one, and config.json, without
which nothing loads, goes first and comes last.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_long.errors import UserError
from lit_long.repository import parse_repository
from lit_long_hub.atomic_file import write_json
from lit_long_hub.remote.client import hub_client, hub_errors
from lit_long_hub.remote.tree import RemoteFile, matches, remote_tree
from lit_long_hub.safe_files import clashing, is_safe_type, path_problem

if TYPE_CHECKING:
    from huggingface_hub import HfApi

RECEIPT = ".lit-long-pull.json"
"""Names the repository, the commit and the files that a folder was fetched from."""

_STAGING = ".lit-long-pull"
_ATTEMPTS = 3
_LOADS = "config.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class PullResult:
    """What was fetched."""

    folder: Path
    repo_id: str
    kind: str
    """``model`` or ``dataset``."""

    commit: str
    """The commit the revision pointed to."""

    files: list[str]
    total_bytes: int
    fetched: list[str]
    """Those that were not there already."""

    refused: dict[str, str]
    """Files of the repository that were not fetched, and why."""


def pull_release(
    repository: str,
    folder: str | Path | None = None,
    *,
    allow: tuple[str, ...] = (),
    endpoint: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> PullResult:
    """Fetch a model or dataset, verified.

    Running it again after an interruption keeps the files that are finished and right.

    Args:
        repository: ``org/name``, ``org/name@revision``, ``datasets/org/name``, with or without ``hf://``.
        folder: Where to; None is ``./name``. New, empty, or an earlier pull of the same repository.
        allow: Patterns of files that are fetched though a reader might run code from them (``*.py``).
        endpoint: Another Hub's address.
        token: Access token; None takes ``HF_TOKEN`` or the one of ``hf auth login``.
        progress: Told about every file.

    Raises:
        UserError: No such repository; a path that leaves the folder; content that does not match its checksum after
            three attempts; no space; a folder with something else in it.
    """
    report = progress or (lambda text, done, total: None)
    name = parse_repository(repository)
    folder = Path(folder) if folder is not None else Path(name.id.rpartition("/")[2])
    api = hub_client(endpoint=endpoint, token=token)
    with hub_errors(name.id, doing="fetching"):
        info = api.repo_info(name.id, repo_type=name.kind, revision=name.revision)
        commit = info.sha
        if commit is None:
            raise UserError(f"{name.id} has no commit yet: there is nothing to fetch.")
        tree = remote_tree(api, name.id, kind=name.kind, revision=commit)
        wanted, refused = _choose(name.id, tree, allow)
        earlier = _earlier(folder, name.id)
        present = {path for path, file in wanted.items() if matches(folder / path, file)}
        staging = folder / _STAGING / commit
        _check_space(folder, [file for path, file in wanted.items() if path not in present], staging)
        staging.mkdir(parents=True, exist_ok=True)
        fetched = _fetch(api, name.id, name.kind, commit, wanted, present, staging, report)
        receipt = {"repo_id": name.id, "kind": name.kind, "commit": commit, "files": sorted(wanted)}
        if present != wanted.keys() or earlier.get("commit") != commit:
            old = set(earlier.get("files", []))
            # Without a commit: a run that is cut off while files are moved finds that the folder is its own.
            write_json(folder / RECEIPT, receipt | {"commit": None, "files": sorted(old | wanted.keys())})
            _install(folder, staging, fetched, stale=old - wanted.keys())
        write_json(folder / RECEIPT, receipt)
    shutil.rmtree(folder / _STAGING, ignore_errors=True)
    return PullResult(
        folder=folder,
        repo_id=name.id,
        kind=name.kind,
        commit=commit,
        files=sorted(wanted),
        total_bytes=sum(file.size for file in wanted.values()),
        fetched=fetched,
        refused=refused,
    )


def _choose(
    repo_id: str, tree: dict[str, RemoteFile], allow: tuple[str, ...]
) -> tuple[dict[str, RemoteFile], dict[str, str]]:
    for path in tree:
        if (problem := path_problem(path)) is not None:
            raise UserError(f"{repo_id} holds a file {path!r}: {problem}. Nothing was fetched; do not trust it.")
    if doubled := clashing(list(tree)):
        raise UserError(f"{repo_id} holds {doubled[0]}, which are one file on many systems. Nothing was fetched.")
    wanted, refused = {}, {}
    for path, file in tree.items():
        if path == ".gitattributes":
            continue
        if is_safe_type(path) or any(fnmatch(path, pattern) for pattern in allow):
            wanted[path] = file
        else:
            refused[path] = "files of this kind can run code in a reader"
    if not wanted:
        raise UserError(
            f"{repo_id} holds no file of a safe kind ({len(refused)} others). If you trust it, name them with --allow."
        )
    return wanted, refused


def _earlier(folder: Path, repo_id: str) -> dict[str, Any]:
    """The receipt of what the folder was fetched from; refuses a folder with anything else in it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Give another --output.")
    try:
        receipt = json.loads((folder / RECEIPT).read_text())
    except (OSError, ValueError):
        receipt = None
    if isinstance(receipt, dict):
        if receipt.get("repo_id") != repo_id:
            raise UserError(f"{folder} was fetched from {receipt.get('repo_id')}. Give another --output.")
        return receipt
    if folder.is_dir() and any(path.name != _STAGING for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and was not fetched by lit-long. Give a new folder for --output.")
    return {}


def _check_space(folder: Path, missing: list[RemoteFile], staging: Path) -> None:
    place = folder
    while not place.exists():
        place = place.parent
    needed = sum(file.size for file in missing if not (staging / file.path).is_file())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise UserError(f"{folder} has {free / 1e9:.2f} GB free, {needed / 1e9:.2f} GB are to be fetched. Free space.")


def _fetch(
    api: "HfApi",
    repo_id: str,
    kind: str,
    commit: str,
    wanted: dict[str, RemoteFile],
    present: set[str],
    staging: Path,
    report: Progress,
) -> list[str]:
    fetched = []
    missing = sorted((file for path, file in wanted.items() if path not in present), key=lambda file: file.size)
    for done, file in enumerate(missing):
        report("Fetching", done, len(missing))
        _fetch_file(api, repo_id, kind, commit, file, staging)
        fetched.append(file.path)
        report("Fetching", done + 1, len(missing))
    return sorted(fetched)


def _fetch_file(api: "HfApi", repo_id: str, kind: str, commit: str, file: RemoteFile, staging: Path) -> None:
    if matches(staging / file.path, file):  # finished by a run that was cut off
        return
    for _ in range(_ATTEMPTS):
        (staging / file.path).unlink(missing_ok=True)  # or the client takes what is there for the file
        api.hf_hub_download(repo_id, file.path, repo_type=kind, revision=commit, local_dir=str(staging))
        if matches(staging / file.path, file):
            return
    (staging / file.path).unlink(missing_ok=True)
    raise UserError(
        f"{file.path} of {repo_id} arrived {_ATTEMPTS} times with another checksum than the Hub states: it is changed "
        "on the way, or damaged there. Nothing was put into the folder."
    )


def _install(folder: Path, staging: Path, fetched: list[str], *, stale: set[str]) -> None:
    """Move what was fetched into place; between the first step and the last the folder loads nowhere."""
    if fetched or stale:
        # Set aside among the staged files, so that a run cut off here finds it, unchanged, and puts it back.
        if (folder / _LOADS).is_file() and _LOADS not in fetched:
            shutil.move(folder / _LOADS, staging / _LOADS)
            fetched = [*fetched, _LOADS]
        (folder / _LOADS).unlink(missing_ok=True)
    for path in stale:
        (folder / path).unlink(missing_ok=True)
    for path in sorted(fetched, key=lambda path: path == _LOADS):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (staging / path).replace(folder / path)
