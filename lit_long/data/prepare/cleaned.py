"""What is tokenised when the configuration asks for cleaning: the documents that stay, as other sources."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lit_long.data.prepare.config import PrepareConfig


def cleaned(
    config: PrepareConfig, tell: Callable[[str, int, int], None]
) -> tuple[PrepareConfig, dict[str, Any] | None]:
    """The configuration to read texts by, and the report of the cleaning (None without one).

    A cleaning that is finished is not repeated, so each of many machines may call this.

    Args:
        config: what was asked for.
        tell: called with a stage of the cleaning, its finished tasks and its tasks.

    Raises:
        UserError: as :func:`lit_long.data.cleaning.clean` does.
    """
    if config.clean is None:
        return config, None
    from lit_long.data.cleaning.clean import arguments_of, clean

    sources, report = clean(**arguments_of(config), workers=config.cores, tell=tell)
    return replace(config, sources=sources, max_document_bytes=report["max_document_bytes"], clean=None), report
