"""What makes a folder of Arrow files a token corpus: the index files and the descriptions beside them."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.corpus import FORMAT
from lit_long.data.corpus_shard import Shard

MAX_SOURCES = np.iinfo(np.uint16).max + 1


def write_split(
    folder: Path,
    shards: Sequence[Shard],
    documents: Iterable[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint16]]],
    info: dict[str, Any],
) -> None:
    """Complete a split whose Arrow files are in ``folder`` already.

    Args:
        folder: the split's folder.
        shards: its files, in order.
        documents: lengths (int64) and source indices (uint16) of the documents, in order, in blocks of any size.
        info: corpus.json without format, documents, tokens and shards; has at least name, sources (name of each),
            fingerprint and tokenizer (name, fingerprint).
    """
    total, tokens = sum(shard.documents for shard in shards), sum(shard.tokens for shard in shards)
    starts = np.lib.format.open_memmap(folder / "starts.npy", "w+", np.int64, (total + 1,))
    # an empty file cannot be mapped, so a split always has a document
    sources = np.lib.format.open_memmap(folder / "sources.npy", "w+", np.uint16, (total,))
    done = end = 0
    for lengths, indices in documents:
        ends = end + np.cumsum(lengths, dtype=np.int64)
        starts[done + 1 : done + 1 + len(ends)] = ends
        sources[done : done + len(ends)] = indices
        done, end = done + len(ends), int(ends[-1]) if len(ends) else end
    assert (done, end) == (total, tokens), f"{done} documents of {end} tokens, the files hold {total} of {tokens}"
    starts.flush()
    sources.flush()
    _write_description(folder, shards, info["fingerprint"])
    whole = {"format": FORMAT, "name": info["name"], "documents": total, "tokens": tokens}
    write_json(folder / "corpus.json", whole | {"shards": [asdict(shard) for shard in shards]} | info)


def shard_name(index: int, count: int) -> str:
    """Name of the ``index``-th file of ``count``, as ``datasets`` writes it."""
    return f"data-{index:05d}-of-{count:05d}.arrow"


def write_splits_file(folder: Path, splits: Sequence[str]) -> None:
    """The file by which ``datasets.load_from_disk`` knows a folder of several splits."""
    write_json(folder / "dataset_dict.json", {"splits": list(splits)})


def _write_description(folder: Path, shards: Sequence[Shard], fingerprint: str) -> None:
    """dataset_info.json and state.json, by which ``datasets.load_from_disk`` knows a split."""
    from datasets import DatasetInfo, Features, List, Value

    features = Features({"id": Value("string"), "input_ids": List(Value("int32")), "source": Value("string")})
    DatasetInfo(features=features).write_to_directory(str(folder))
    write_json(
        folder / "state.json",
        {
            "_data_files": [{"filename": shard.file} for shard in shards],
            "_fingerprint": fingerprint[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": None,
        },
    )


def write_json(file: Path, content: Any) -> None:
    """Write JSON to the disk under a temporary name first, so that ``file`` is whole whenever it is there."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as out:
        json.dump(content, out, indent=2, ensure_ascii=False)
        out.write("\n")
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)
