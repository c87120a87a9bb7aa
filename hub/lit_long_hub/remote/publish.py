"""Publishes files as one commit: either all of them are there, with the tag, or the repository is as it was.

Large files are uploaded one at a time before the commit that makes them visible (huggingface_hub's
``preupload_lfs_files``), so that a run that was cut off only repeats the file it was at. ``upload_folder`` is not used:
it splits large folders into several commits, and repeats a commit whose answer was lost (hub-facts.md, finding 5).

Whether a commit happened is always decided by looking at the repository's tree, never by what an answer said.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_long.errors import UserError
from lit_long_hub.remote.client import hub_errors, status_of
from lit_long_hub.remote.tree import RemoteFile, content_hashes, remote_tree, same_content

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

MARK = "Published by lit-long push."
"""In the description of every commit made here: a head without it is somebody else's work."""

_SMALL = 1_000_000
"""Bytes up to which files go together, with the commit, instead of one at a time before it."""

_ALWAYS_LARGE = 10_000_000
"""Bytes above which the Hub keeps every file apart from git, whatever the repository's .gitattributes say."""

_ATTEMPTS = 5
_RETRIED = (429, 500, 502, 503, 504)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Upload:
    """A file to publish."""

    path: str
    """Path in the repository."""

    content: Path | bytes
    """The file here, or its bytes."""

    sha256: str | None = None
    """What the content must hash to, where a proof was made of it."""

    temporary: bool = False
    """Whether the file here is removed once it is uploaded."""


@dataclass(frozen=True)
class Target:
    """Where and how to publish."""

    repo_id: str
    """``organisation/name``."""

    kind: str
    """``model`` or ``dataset``."""

    message: str
    """Title of the commit."""

    tag: str | None = None
    """Tag of the commit; never moved once it exists."""

    public: bool = False
    """Whether everybody may see the repository; it becomes public as the very last step."""

    replace: str | None = None
    """Commit made by somebody else that may be replaced."""

    stale: Callable[[str], bool] = lambda path: False
    """Which files of an earlier release are deleted where the new one does not have them."""


@dataclass(frozen=True)
class Published:
    """What was published."""

    repo_id: str
    commit: str
    url: str
    tag: str | None
    private: bool
    uploaded: list[str]
    """Files that were sent, or that this run found already uploaded by an earlier run."""

    unchanged: list[str]
    """Files that the repository already had."""

    deleted: list[str]
    """Files of the earlier release."""

    kept: list[str]
    """Files that are no part of a release and were left."""


@dataclass(frozen=True)
class _Wanted:
    size: int
    sha256: str
    git_oid: str


def publish(
    api: "HfApi",
    target: Target,
    uploads: Iterable[Upload],
    *,
    total: int,
    progress: Progress | None = None,
    pause: float = 1.0,
) -> Published:
    """Publish files as one commit on ``main``, verified, then tagged, then made public if asked.

    Args:
        api: The client.
        target: Where and how.
        uploads: The files, taken one at a time: a temporary file may be written just before it is uploaded.
        total: How many there are.
        progress: Told about every file.
        pause: Seconds before the commit is tried again, doubled each time.

    Raises:
        UserError: The Hub refuses or cannot be reached; the repository was changed by somebody else; the tag exists
            elsewhere; a file is not the one that was proved; what is there afterwards is not what was sent.
    """
    report = progress or (lambda text, done, of: None)
    with hub_errors(target.repo_id, doing="publishing to"):
        head = _open_repository(api, target)
        before = remote_tree(api, target.repo_id, kind=target.kind, revision=head)
        _refuse_foreign(api, target, head, before)
        tagged = _tag_commit(api, target)
        if tagged not in (None, head):
            raise _tag_taken(target, tagged)
        wanted, operations, unchanged = _stage(api, target, uploads, before, total, report, pause)
        deleted = sorted(path for path in before if path not in wanted and target.stale(path))
        if tagged is not None and (operations or deleted):
            raise _tag_taken(target, tagged)
        commit = head
        if operations or deleted:
            report("Committing", 0, 1)
            commit = _commit(api, target, list(operations.values()), deleted, wanted, head, pause)
            report("Committing", 1, 1)
        _verify(api, target, commit, wanted, deleted)
        if target.tag is not None and tagged is None:
            _tag(api, target, commit)
        private = _settle_visibility(api, target)
    return Published(
        repo_id=target.repo_id,
        commit=commit,
        url=f"{api.endpoint}/{'' if target.kind == 'model' else 'datasets/'}{target.repo_id}",
        tag=target.tag,
        private=private,
        uploaded=sorted(operations),
        unchanged=unchanged,
        deleted=deleted,
        kept=sorted(before.keys() - wanted.keys() - {*deleted, ".gitattributes"}),
    )


def _open_repository(api: "HfApi", target: Target) -> str:
    """Create the repository (private) or look at it; returns the commit that ``main`` is at."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        info = api.repo_info(target.repo_id, repo_type=target.kind)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(target.repo_id, repo_type=target.kind, private=True, exist_ok=True)
        info = api.repo_info(target.repo_id, repo_type=target.kind)
    if not info.private and not target.public:
        raise UserError(
            f"{target.repo_id} is public: everybody would see what is published there. Add --public if you mean that, "
            "or give another --repo-id."
        )
    if info.sha is None:
        raise UserError(f"{target.repo_id} has no commit on main, not even an initial one. Create it anew.")
    return info.sha


def _refuse_foreign(api: "HfApi", target: Target, head: str, tree: dict[str, RemoteFile]) -> None:
    if not tree.keys() - {".gitattributes"} or target.replace == head:
        return
    newest = api.list_repo_commits(target.repo_id, repo_type=target.kind, revision=head)[0]
    if MARK not in f"{newest.title}\n{newest.message}":
        raise UserError(
            f"The newest commit of {target.repo_id} is not lit-long's: {newest.title!r} ({head}). Publishing could "
            f"undo somebody's change. Look at it; if it may be replaced, add --replace {head}."
        )


def _tag_commit(api: "HfApi", target: Target) -> str | None:
    if target.tag is None:
        return None
    refs = api.list_repo_refs(target.repo_id, repo_type=target.kind)
    return next((ref.target_commit for ref in refs.tags if ref.name == target.tag), None)


def _tag_taken(target: Target, commit: str) -> UserError:
    return UserError(
        f"{target.repo_id} already has a tag {target.tag!r}, at commit {commit[:12]}, with other content. Tags are "
        "what readers pin, so they are never moved: give another --tag."
    )


def _stage(
    api: "HfApi",
    target: Target,
    uploads: Iterable[Upload],
    before: dict[str, RemoteFile],
    total: int,
    report: Progress,
    pause: float,
) -> tuple[dict[str, _Wanted], "dict[str, CommitOperationAdd]", list[str]]:
    from huggingface_hub import CommitOperationAdd

    wanted: dict[str, _Wanted] = {}
    operations: dict[str, CommitOperationAdd] = {}
    unchanged: list[str] = []
    for done, upload in enumerate(uploads):
        report("Uploading", done, total)
        size, sha256, git_oid = content_hashes(upload.content)
        if upload.sha256 is not None and sha256 != upload.sha256:
            raise UserError(
                f"{upload.path} is not the file that was proved: it was changed after its checksum was written. "
                "Nothing was published. Export (or prepare) again."
            )
        wanted[upload.path] = _Wanted(size, sha256, git_oid)
        there = before.get(upload.path)
        if there is not None and same_content(there, size=size, sha256=sha256, git_oid=git_oid):
            unchanged.append(upload.path)
        else:
            content = upload.content if isinstance(upload.content, bytes) else str(upload.content)
            if upload.temporary and isinstance(upload.content, Path) and size <= _ALWAYS_LARGE:
                content = upload.content.read_bytes()  # the Hub may want it with the commit, when the file is gone
            operation = CommitOperationAdd(upload.path, content)
            if operation.upload_info.sha256.hex() != sha256:
                raise UserError(f"{upload.path} changed while it was read. Nothing was published.")
            operations[upload.path] = operation
            if upload.temporary or size > _SMALL:
                _preupload(api, target, operation, pause)
        if upload.temporary and isinstance(upload.content, Path):
            upload.content.unlink()
        report("Uploading", done + 1, total)
    return wanted, operations, unchanged


def _preupload(api: "HfApi", target: Target, operation: "CommitOperationAdd", pause: float) -> None:
    """Send a large file before the commit; what the Hub has already, it says so itself."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    for attempt in range(_ATTEMPTS):
        try:
            api.preupload_lfs_files(target.repo_id, additions=[operation], repo_type=target.kind, free_memory=False)
            return
        except (HfHubHTTPError, HTTPError, RuntimeError) as error:
            # The client hides what failed in a transfer behind a RuntimeError.
            failure = error if isinstance(error, (HfHubHTTPError, HTTPError)) else error.__cause__
            if not isinstance(failure, (HfHubHTTPError, HTTPError)):
                raise
            if status_of(failure) not in (None, *_RETRIED) or attempt == _ATTEMPTS - 1:
                raise failure from None
            time.sleep(pause * 2**attempt)


def _commit(
    api: "HfApi",
    target: Target,
    additions: "list[CommitOperationAdd]",
    deleted: list[str],
    wanted: dict[str, _Wanted],
    parent: str,
    pause: float,
) -> str:
    """Make the commit once, whatever happens to answers on the way; returns its id."""
    from huggingface_hub import CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    operations: list[Any] = [*additions, *(CommitOperationDelete(path) for path in deleted)]
    for attempt in range(_ATTEMPTS):
        try:
            made = api.create_commit(
                target.repo_id,
                operations=operations,
                commit_message=target.message,
                commit_description=MARK,
                repo_type=target.kind,
                parent_commit=parent,
            )
            return made.oid
        except ValueError as error:
            if isinstance(error, HfHubHTTPError) and not str(error).startswith("Invalid metadata"):
                raise
            raise UserError(f"The Hub refuses the front matter of README.md: {_reason(error)}") from error
        except (HfHubHTTPError, HTTPError) as error:
            status = status_of(error)
            if status not in (None, 409, 412, *_RETRIED):
                raise
            # The answer may have been lost after the commit was made, so the repository is asked.
            now = api.repo_info(target.repo_id, repo_type=target.kind).sha or parent
            if now != parent:
                if not _differences(remote_tree(api, target.repo_id, kind=target.kind, revision=now), wanted, deleted):
                    return now
                raise UserError(
                    f"{target.repo_id} was changed by somebody else while this ran (now at {now[:12]}). Nothing was "
                    "published. Look at that change and run the command again."
                ) from error
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(pause * 2**attempt)
    raise AssertionError("unreachable")


def _reason(error: Exception) -> str:
    return " ".join(str(error).removeprefix("Invalid metadata in README.md.").split()).strip()


def _differences(tree: dict[str, RemoteFile], wanted: dict[str, _Wanted], deleted: list[str]) -> list[str]:
    wrong = [
        path
        for path, file in wanted.items()
        if path not in tree or not same_content(tree[path], size=file.size, sha256=file.sha256, git_oid=file.git_oid)
    ]
    return wrong + [path for path in deleted if path in tree]


def _verify(api: "HfApi", target: Target, commit: str, wanted: dict[str, _Wanted], deleted: list[str]) -> None:
    tree = remote_tree(api, target.repo_id, kind=target.kind, revision=commit)
    if wrong := _differences(tree, wanted, deleted):
        raise UserError(
            f"{target.repo_id} at {commit[:12]} does not hold what was sent: {', '.join(wrong[:5])}. It was not "
            "tagged; do not use it. Run the command again."
        )


def _tag(api: "HfApi", target: Target, commit: str) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    assert target.tag is not None
    try:
        api.create_tag(target.repo_id, tag=target.tag, revision=commit, repo_type=target.kind)
    except HfHubHTTPError as error:
        # A 409 after a lost answer: the tag is ours if it points to our commit.
        if status_of(error) != 409 or _tag_commit(api, target) != commit:
            raise


def _settle_visibility(api: "HfApi", target: Target) -> bool:
    info = api.repo_info(target.repo_id, repo_type=target.kind)
    if target.public and info.private:
        api.update_repo_settings(target.repo_id, private=False, repo_type=target.kind)
        return False
    return bool(info.private)
