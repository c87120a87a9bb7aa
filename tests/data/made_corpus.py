"""Corpora of given tokens, written through the library's own writer, in as many files and record batches as asked."""

import hashlib
from pathlib import Path

import numpy as np

from lit_long.data import TokenCorpus
from lit_long.data import corpus_shard as shard_module
from lit_long.data.corpus_shard import ShardWriter
from lit_long.data.corpus_writer import shard_name, write_split, write_splits_file


def made(folder, documents, *, shards=1, batch_tokens=None, sources=None):
    """A corpus folder of token lists; ``sources`` is the source index of each (default 0, of source "s0")."""
    sources = sources or [0] * len(documents)
    names = [f"s{i}" for i in range(max(sources) + 1)]
    train = Path(folder) / "train"
    train.mkdir(parents=True)
    before, done = shard_module.BATCH_TOKENS, []
    shard_module.BATCH_TOKENS = batch_tokens or before
    try:
        for number, rows in enumerate(np.array_split(np.arange(len(documents)), shards)):
            writer = ShardWriter(train / shard_name(number, shards))
            for row in rows:
                writer.add(f"d{row}", np.asarray(documents[row], dtype=np.int32), names[sources[row]])
            done.append(writer.close())
    finally:
        shard_module.BATCH_TOKENS = before
    info = {
        "name": "made",
        "sources": [{"name": name} for name in names],
        "fingerprint": hashlib.sha256(repr((documents, sources)).encode()).hexdigest(),
        "tokenizer": {"name": "none", "fingerprint": "0"},
    }
    lengths = np.asarray([len(document) for document in documents], dtype=np.int64)
    write_split(train, done, [(lengths, np.asarray(sources, dtype=np.uint16))], info)
    write_splits_file(Path(folder), ["train"])
    return TokenCorpus(folder)
