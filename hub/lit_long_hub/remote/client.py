"""The Hub client of lit-long, and its errors in words: what failed, and what the user can do.

Tokens are read by huggingface_hub (``HF_TOKEN`` or ``hf auth login``) and never shown: no message here repeats a
header or the text of a request.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lit_long import __version__
from lit_long.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_AGAIN = "Run the same command again later: what was transferred is not transferred again."


def hub_client(*, endpoint: str | None = None, token: str | None = None) -> "HfApi":
    """A client of the Hub.

    Args:
        endpoint: Address of another Hub; None takes ``HF_ENDPOINT`` or huggingface.co.
        token: Access token; None takes ``HF_TOKEN`` or the one of ``hf auth login``.
    """
    from huggingface_hub import HfApi

    return HfApi(endpoint=endpoint, token=token, library_name="lit-long", library_version=__version__)


@contextmanager
def hub_errors(repo_id: str, *, doing: str) -> Iterator[None]:
    """Turn the client's errors into one message each.

    Args:
        repo_id: The repository, for the message.
        doing: What is being done ("publishing to", "fetching").

    Raises:
        UserError: For every failure of the Hub, the network or the disk.
    """
    from huggingface_hub import errors

    what = f"{doing} {repo_id}"
    try:
        yield
    except errors.GatedRepoError as error:
        raise UserError(
            f"{what}: the repository is gated and your account was not let in. Accept its terms on its page, and log "
            "in with `hf auth login` (or set HF_TOKEN)."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{what}: there is no such repository, or it is private and your token may not see it. Check the id; log "
            "in with `hf auth login` (or set HF_TOKEN)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{what}: it has no such branch, tag or commit. Check what stands after the @.") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        # The client wraps what went wrong while it asked for a file.
        if status_of(error.__cause__) is not None:
            raise UserError(f"{what}: {_status_text(error.__cause__)}") from error
        raise UserError(f"{what}: no connection to the Hub (HF_HUB_OFFLINE is set, or the network is down).") from error
    except errors.LocalTokenNotFoundError as error:
        raise UserError(f"{what}: not logged in. Run `hf auth login`, or set HF_TOKEN.") from error
    except errors.HFValidationError as error:
        raise UserError(f"{repo_id!r} is no repository id: write ORGANISATION/NAME.") from error
    except errors.HfHubHTTPError as error:
        raise UserError(f"{what}: {_status_text(error)}") from error
    except errors.HTTPError as error:  # the HTTP library's own, whichever huggingface_hub uses
        raise UserError(f"{what}: the connection failed ({type(error).__name__}). {_AGAIN}") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"{what}: the disk is full. Free space and run the same command again; finished files are kept."
            ) from error
        if error.errno is not None:
            raise UserError(f"{what}: {error.strerror}" + (f" ({error.filename})" if error.filename else "")) from error
        raise UserError(f"{what}: a transfer ended early or wrongly ({type(error).__name__}). {_AGAIN}") from error


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status of one of the client's errors; None where there was no answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _status_text(error: BaseException | None) -> str:
    status = status_of(error)
    if status == 401:
        return "the Hub does not accept the token (401). Log in with `hf auth login`, or set another HF_TOKEN."
    if status == 402:
        return "the account's storage or plan does not allow it (402)."
    if status == 403:
        return (
            "the token may not do this (403). Writing needs a token with write access to that namespace; make one in "
            "the Hub's settings."
        )
    if status == 404:
        return "not found (404). Check the id, and that the token may see it."
    if status == 429:
        return f"the Hub limits requests (429). {_AGAIN}"
    if status is not None and status >= 500:
        return f"the Hub has an error of its own ({status}), also after retries. {_AGAIN}"
    return f"the Hub refused with status {status}."
