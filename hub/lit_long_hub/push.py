"""Publishes a proved release on the Hub."""

from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long_hub.licence_rules import licence_problems
from lit_long_hub.remote.client import hub_client
from lit_long_hub.remote.publish import Progress, Published, Target, Upload, publish
from lit_long_hub.validate import Release, validate_release

_STALE = (
    "*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "evaluation/*.png", "config.json.refused",
    "configuration_*.py", "modeling_*.py", "adapter_config.json", "chat_template.jinja", "tokenizer.model",
    "tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip


def push_release(
    folder: str | Path,
    repo_id: str,
    *,
    tag: str | None = None,
    public: bool = False,
    message: str | None = None,
    replace: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> Published:
    """Publish a folder of ``lit-long export`` in one commit; private unless ``public``.

    What was proved is what is published: every file that verification.json was made of is hashed again on the way.
    Running it again after an interruption sends only what is missing; running it after success changes nothing.

    Args:
        folder: The release.
        repo_id: ``organisation/name``; created if it is not there.
        tag: Tag of the commit, such as ``v1.0``; made only after the commit was checked.
        public: Make the repository public, as the last step.
        message: Title of the commit.
        replace: Commit by somebody else, at the head of the repository, that may be replaced.
        endpoint: Another Hub's address.
        token: Access token; None takes ``HF_TOKEN`` or the one of ``hf auth login``.
        progress: Told about every file.

    Raises:
        UserError: The folder is no whole, proved release; the licence's duties are not met; the Hub refuses, or holds
            somebody else's change.
    """
    check_repo_id(repo_id)
    release = validate_release(folder)
    check_licence(release, repo_id)
    target = release_target(repo_id, release.config, tag=tag, public=public, message=message, replace=replace)
    uploads = [Upload(name, release.folder / name, release.sha256.get(name)) for name in _small_first(release)]
    return publish(hub_client(endpoint=endpoint, token=token), target, uploads, total=len(uploads), progress=progress)


def check_licence(release: Release, repo_id: str) -> None:
    """Refuse a release that its licence does not allow to publish so.

    Args:
        release: What is to be published.
        repo_id: Where.

    Raises:
        UserError: With every duty that is not met.
    """
    if problems := licence_problems(repo_id, release.head, release.folder):
        raise UserError(
            f"{release.folder} cannot be published as {repo_id}:\n"
            + "\n".join(f"  - {problem}" for problem in problems)
        )


def release_target(
    repo_id: str, config: Mapping[str, Any], *, tag: str | None, public: bool, message: str | None, replace: str | None
) -> Target:
    """Where and how a release is published.

    Args:
        repo_id: ``organisation/name``.
        config: The content of config.json.
        tag: As ``push_release`` has it; so the others.
        public: Whether everybody may see it.
        message: Title of the commit.
        replace: Somebody else's commit that may be replaced.
    """
    return Target(
        repo_id=repo_id,
        kind="model",
        message=message or f"{config['max_position_embeddings']:,} tokens of context",
        tag=tag,
        public=public,
        replace=replace,
        stale=_is_stale,
    )


def check_repo_id(repo_id: str) -> None:
    """Refuse what is no ``organisation/name``.

    Raises:
        UserError: Saying how it is written.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo-id is {repo_id!r}, which is no repository id: write ORGANISATION/NAME.") from error
    if repo_id.count("/") != 1:
        raise UserError(f"--repo-id is {repo_id!r}: write ORGANISATION/NAME, so that it is clear whose it is.")


def _small_first(release: Release) -> list[str]:
    """A changed config is then found before gigabytes were sent."""
    return sorted(release.files, key=lambda name: ((release.folder / name).stat().st_size > 10_000_000, name))


def _is_stale(path: str) -> bool:
    return any(fnmatch(path, pattern) for pattern in _STALE)
