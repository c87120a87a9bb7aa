"""``clean``: sources in, sources of what stays out."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from lit_long.data.cleaning.config import CleanConfig, check_packages
from lit_long.data.cleaning.folder import EXCLUDED, ITEM_BYTES, Work, check_bad_rows
from lit_long.data.sources import MAX_DOCUMENT_BYTES, Source

_ESCAPED = 6  # bytes that JSON may need for one byte of text; a document within the limit stays within it


def clean(
    sources: Sequence[Source],
    config: CleanConfig,
    folder: str | Path,
    *,
    workers: int = 1,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    max_bad_rows: int = 0,
    must_keep: Collection[str] = (),
    item_bytes: int = ITEM_BYTES,
    tell: Callable[[str, int, int], None] = lambda stage, done, tasks: None,
) -> tuple[tuple[Source, ...], dict[str, Any]]:
    """Leave out duplicates and unwanted documents, on this machine.

    A run that was killed goes on with the same call; a finished one is not repeated. What is kept, and in which order,
    depends on the arguments but ``workers`` alone.

    Args:
        sources: what to clean.
        config: which rules.
        folder: where to work. Afterwards: ``kept/`` (zstd JSON lines by source), ``excluded.jsonl`` (every document
            left out: id, place, source, reason, duplicate_of), ``report.json``, ``logs/`` (datatrove's).
        workers: processes.
        max_document_bytes: as in :func:`lit_long.data.sources.plan_items`.
        max_bad_rows: rows that may be bad; they are in the report, as they would be in that of ``prepare``.
        must_keep: ids of documents that must not be left out (those held out for evaluation).
        item_bytes: raw text of a task.
        tell: called with the name of a stage, its finished tasks and its tasks.

    Returns:
        The sources of what stays (names kept; a source of which nothing stays is gone), and the report: ``documents``,
        ``kept``, ``excluded`` {reason: documents}, ``sources``, ``bad_rows``, ``skipped``, and ``max_document_bytes``
        with which the returned sources are to be read (JSON needs more bytes than the text it holds).

    Raises:
        UserError: a package is missing, a source or row is bad, the folder holds something else or is in use, a
            document of ``must_keep`` would go, or nothing is left.
    """
    work = begin(
        sources,
        config,
        folder,
        max_document_bytes=max_document_bytes,
        max_bad_rows=max_bad_rows,
        must_keep=must_keep,
        item_bytes=item_bytes,
    )
    if work.report is None:
        from lit_long.data.cleaning.stages import cleaning_stages
        from lit_long.data.cluster.executors import launch, make_executors

        with work.lock():
            stages = cleaning_stages(work, work.plan())
            launch(make_executors(stages, "local", logs=work.folder / "logs", workers=workers), tell)
    return outcome(work)


def begin(
    sources: Sequence[Source],
    config: CleanConfig,
    folder: str | Path,
    *,
    max_document_bytes: int = MAX_DOCUMENT_BYTES,
    max_bad_rows: int = 0,
    must_keep: Collection[str] = (),
    item_bytes: int = ITEM_BYTES,
) -> Work:
    """Check everything that can be checked before work starts, and make the folder (or find the one begun).

    Args and errors as for :func:`clean`.
    """
    check_packages(config)
    work = Work(
        sources=tuple(sources),
        config=config,
        folder=Path(folder).absolute(),
        max_document_bytes=max_document_bytes,
        max_bad_rows=max_bad_rows,
        must_keep=frozenset(must_keep),
        item_bytes=item_bytes,
    )
    work.begin()
    return work


def outcome(work: Work) -> tuple[tuple[Source, ...], dict[str, Any]]:
    """What :func:`clean` returns, of a finished cleaning."""
    report = work.report
    assert report is not None
    check_bad_rows(report["bad_rows"], work.max_bad_rows)
    kept = []
    for index, source in enumerate(work.sources):
        path = work.folder / "kept" / f"{index:04d}"
        if path.is_dir():
            plain = Source(path=str(path), name=source.label, license=source.license)
            kept.append(plain)
    report |= {
        "max_document_bytes": _ESCAPED * work.max_document_bytes,
        "excluded_file": str(work.folder / EXCLUDED),
    }
    return tuple(kept), report


def arguments_of(config: Any) -> dict[str, Any]:
    """What :func:`clean` and :func:`begin` are called with for a ``PrepareConfig`` that asks for cleaning."""
    return {
        "sources": config.sources,
        "config": config.clean,
        "folder": f"{config.output}.cleaned",
        "max_document_bytes": config.max_document_bytes,
        "max_bad_rows": config.max_bad_rows,
        "must_keep": config.held_out,
    }
