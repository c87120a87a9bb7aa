"""From items that are done to a corpus folder. Files are moved, not copied; a run killed here can be given again."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long import __version__
from lit_long.data.corpus_shard import Shard
from lit_long.data.corpus_writer import shard_name, write_split, write_splits_file
from lit_long.data.prepare.config import SPLITS, PrepareConfig, PrepareResult, SplitCount
from lit_long.data.prepare.store import DeadEndError, Store
from lit_long.errors import UserError

_CLEANING = ("documents", "kept", "excluded", "sources", "versions")  # of its report, for corpus.json


def assemble(
    config: PrepareConfig,
    store: Store,
    abouts: dict[int, dict[str, Any]],
    *,
    key: str,
    tokenizer: dict[str, Any],
    cleaning: dict[str, Any] | None = None,
) -> PrepareResult:
    """Put the items together in ``store.corpus`` and move that to the output.

    Args:
        config: what was asked for, with the sources that were read.
        store: the work, all items done.
        abouts: what is known about each item, in order.
        key: identity of inputs and settings, for the corpus to be used again.
        tokenizer: the entry of corpus.json.
        cleaning: the report of the cleaning, if there was one; its bad rows and left-out files are the corpus'.

    Raises:
        UserError: held-out ids that no document has, no document left (both a ``DeadEndError``), files that are gone.
        OSError: the folder cannot be written.
    """
    _check(config, abouts)
    before = cleaning or {"bad_rows": [], "skipped": []}
    bad_rows = [*before["bad_rows"], *(row for about in abouts.values() for row in about["bad_rows"])]
    result = PrepareResult(config.output, False)
    result.bad_rows = dict(sorted(Counter(row["kind"] for row in bad_rows).items()))
    result.skipped_files = _skipped([*before["skipped"], *(s for about in abouts.values() for s in about["skipped"])])
    result.excluded = cleaning["excluded"] if cleaning else {}
    shared = {
        "license": config.license or _licenses(iter(abouts.values())),
        "tokenizer": tokenizer,
        "inputs": key,
        "bad_rows": result.bad_rows,
        "skipped_files": result.skipped_files,
        "cleaning": cleaning and {name: cleaning[name] for name in _CLEANING},
        "versions": {"lit-long": __version__, **{name: version(name) for name in ("tokenizers", "pyarrow")}},
    }
    store.corpus.mkdir(exist_ok=True)
    name = config.name or Path(config.output).name
    for split in SPLITS:
        inside = {number: about for number, about in abouts.items() if split in about["splits"]}
        if inside:
            own = {"name": name if split == "train" else f"{name}/{split}"}
            result.splits[split] = _assemble_split(config, store, split, inside, own | shared)
    write_splits_file(store.corpus, list(result.splits))
    if bad_rows:
        with (store.corpus / "bad_rows.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in bad_rows)
            out.flush()
            os.fsync(out.fileno())
    if cleaning:
        shutil.copyfile(cleaning["excluded_file"], store.corpus / "excluded.jsonl")
    for folder in (*(store.corpus / split for split in result.splits), store.corpus):
        _sync(folder)
    os.replace(store.corpus, config.output)
    _sync(Path(config.output).parent)
    return result


def _check(config: PrepareConfig, abouts: dict[int, dict[str, Any]]) -> None:
    missing = set(config.held_out).difference(*(about["held_out"] for about in abouts.values()))
    if missing:
        raise DeadEndError(f"held_out: no document has the id {sorted(missing)[0]!r} ({len(missing)} unknown in all)")
    if not any("train" in about["splits"] for about in abouts.values()):
        bad = any(about["bad_rows"] for about in abouts.values())
        why = "every document is held out" if config.held_out or config.held_out_share else "the sources are empty"
        raise DeadEndError(f"no document is left to train on: {'every row is bad' if bad else why}")


def _assemble_split(
    config: PrepareConfig, store: Store, split: str, abouts: dict[int, dict[str, Any]], info: dict[str, Any]
) -> SplitCount:
    folder = store.corpus / split
    folder.mkdir(exist_ok=True)
    shards = []
    for index, about in enumerate(abouts.values()):
        entry = about["splits"][split]["shard"]
        shard = Shard(**entry | {"file": shard_name(index, len(abouts))})
        _move(store.items / entry["file"], folder / shard.file, shard.bytes)
        shards.append(shard)
    parts = [about["splits"][split] for about in abouts.values()]
    count = SplitCount(
        documents=sum(shard.documents for shard in shards),
        tokens=sum(shard.tokens for shard in shards),
        characters=sum(part["characters"] for part in parts),
        longest=max(part["longest"] for part in parts),
    )
    fingerprint = hashlib.sha256()
    for documents in _documents(store, split, abouts):
        fingerprint.update(documents["digest"].tobytes())
    info |= {
        "counts": asdict(count),
        "sources": [_source(config, split, index, abouts) for index in range(len(config.sources))],
        # upper bound of the length in tokens (a power of two) -> [documents, tokens]
        "length_histogram": _histogram(parts),
        "fingerprint": fingerprint.hexdigest(),
    }
    blocks = (
        (documents["length"].astype(np.int64), documents["source"].astype(np.uint16))
        for documents in _documents(store, split, abouts)
    )
    write_split(folder, shards, blocks, info)
    return count


def _documents(store: Store, split: str, abouts: dict[int, dict[str, Any]]) -> Iterator[npt.NDArray[Any]]:
    for number in abouts:
        documents = store.documents(number)
        yield documents[documents["split"] == SPLITS.index(split)]


def _move(file: Path, target: Path, size: int) -> None:
    """A run that was killed may have moved the file already."""
    with suppress(FileNotFoundError):
        os.replace(file, target)
    found = target.stat().st_size if target.is_file() else None
    if found != size:
        raise UserError(
            f"{file}: expected {size} bytes, found {'no file' if found is None else f'{found} bytes'}; the unfinished "
            f"work is damaged: give the command again with --discard-unfinished"
        )


def _source(config: PrepareConfig, split: str, index: int, abouts: dict[int, dict[str, Any]]) -> dict[str, Any]:
    own = [about for about in abouts.values() if about["source"] == index]
    parts = [about["splits"][split] for about in own]
    return {
        "name": config.sources[index].label,
        "documents": sum(part["shard"]["documents"] for part in parts),
        "tokens": sum(part["shard"]["tokens"] for part in parts),
        "license": _licenses(iter(own)),
        "length_histogram": _histogram(parts),
    }


def _licenses(abouts: Iterator[dict[str, Any]]) -> str | None:
    found = {name for about in abouts for part in about["splits"].values() for name in part["licenses"]}
    return ", ".join(sorted(found)) or None


def _histogram(parts: list[dict[str, Any]]) -> dict[str, list[int]]:
    whole: dict[int, list[int]] = {}
    for part in parts:
        for bound, (documents, tokens) in part["histogram"].items():
            bucket = whole.setdefault(int(bound), [0, 0])
            bucket[0] += documents
            bucket[1] += tokens
    return {str(bound): counts for bound, counts in sorted(whole.items())}


def _skipped(entries: list[dict[str, Any]]) -> dict[str, int]:
    files: Counter[str] = Counter()
    for entry in entries:
        files[entry["reason"]] += entry["files"]
    return dict(sorted(files.items()))


def _sync(folder: Path) -> None:
    """Names in a folder survive a power cut only when the folder, too, is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
