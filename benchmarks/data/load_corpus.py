"""Corpora to load from: the text prepared once, and a corpus of any size by copying another's files."""

import json
import shutil
from pathlib import Path

import numpy as np


def prepared(texts, tokenizer, folder, corpus=None):
    """What jobs need to know of the corpus of ``texts``, which is prepared if ``corpus`` is None."""
    from lit_long.data.corpus import TokenCorpus
    from lit_long.data.prepare import PrepareConfig, prepare
    from lit_long.data.sources import Source

    if corpus is None:
        corpus = str(folder)
        prepare(PrepareConfig(tokenizer=tokenizer, sources=tuple(Source(path=str(t)) for t in texts), output=corpus))
    opened = TokenCorpus(corpus)
    wide = 2 if opened.info["tokenizer"]["vocab_size"] <= 1 << 16 else 4
    return {"corpus": corpus, "tokens": opened.tokens, "documents": opened.documents, "token_size": wide}


def repeated(corpus, folder, size):
    """A corpus of at least ``size`` bytes of tokens: the files of ``corpus`` copied under new names, again and again.

    Copies, not links: the pages of one file mapped many times would count once.
    """
    source, target = Path(corpus) / "train", Path(folder) / "train"
    info = json.loads((source / "corpus.json").read_text())
    times = max(1, -(-size // (info["tokens"] * 4)))
    target.mkdir(parents=True)
    shards = []
    for number in range(times):
        for shard in info["shards"]:
            name = f"data-{number:05d}-{shard['file']}"
            shutil.copyfile(source / shard["file"], target / name)
            shards.append(shard | {"file": name})
    starts, sources = np.load(source / "starts.npy"), np.load(source / "sources.npy")
    shifted = (np.arange(times)[:, None] * info["tokens"] + starts[:-1]).ravel()
    np.save(target / "starts.npy", np.append(shifted, times * info["tokens"]))
    np.save(target / "sources.npy", np.tile(sources, times))
    info |= {"documents": info["documents"] * times, "tokens": info["tokens"] * times, "shards": shards}
    info["fingerprint"] = f"{info['fingerprint']}x{times}"
    (target / "corpus.json").write_text(json.dumps(info))
    return Path(folder)
