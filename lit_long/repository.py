"""How users write a repository: ``org/name``, ``org/name@revision``, ``hf://...`` or its web address."""

from dataclasses import dataclass

from lit_long.errors import UserError


@dataclass(frozen=True)
class RepositoryName:
    """A repository at a revision."""

    id: str
    """``organisation/name``."""

    kind: str
    """``model`` or ``dataset``."""

    revision: str | None
    """Branch, tag or commit; None is ``main``."""


def parse_repository(text: str) -> RepositoryName:
    """Read what a user wrote.

    Args:
        text: ``org/name``, ``org/name@v1.0``, ``datasets/org/name``, ``hf://...`` of these, or an address of the Hub.

    Raises:
        UserError: None of these.
    """
    from huggingface_hub.errors import HfUriError, HFValidationError
    from huggingface_hub.utils import parse_hf_uri

    written = text if "://" in text else f"hf://{text}"
    try:
        uri = parse_hf_uri(written)
    except (HfUriError, HFValidationError, ValueError) as error:
        raise UserError(f"{text!r} is no repository: write ORGANISATION/NAME or ORGANISATION/NAME@REVISION.") from error
    if uri.type not in ("model", "dataset") or uri.path_in_repo or uri.id.count("/") != 1:
        raise UserError(
            f"{text!r} is no model and no dataset: write ORGANISATION/NAME[@REVISION] or datasets/ORGANISATION/NAME."
        )
    return RepositoryName(uri.id, uri.type, uri.revision)


def model_at(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """A model's folder or Hub id, and its revision, from what a recipe says.

    Args:
        name: A folder, a Hub id, or ``hf://org/name@revision``; only the last is taken apart.
        revision: Revision given beside it.

    Raises:
        UserError: An ``hf://`` name of something else than a model, or two different revisions.
    """
    if not name.startswith("hf://"):
        return name, revision
    parsed = parse_repository(name)
    if parsed.kind != "model":
        raise UserError(f"{name!r} is a dataset, a model is needed: write hf://ORGANISATION/NAME@REVISION.")
    if revision is not None and parsed.revision is not None and revision != parsed.revision:
        raise UserError(f"{name!r} names revision {parsed.revision!r}, the setting revision {revision!r}. Keep one.")
    return parsed.id, parsed.revision or revision
