"""What each way of preparing does with the same text: one function each, run by ``prepare.py`` in its own process.

Every way gets the same plain JSON-lines files (``text`` and ``id``), the same tokenizer folder and the same number of
cores, ends each document with the tokenizer's EOS, and writes to an empty folder. Each returns the seconds of its work
(imports left out, they are in the process's wall time), and the tokens and documents that it really wrote, counted in
its output afterwards.

The settings are those of each project's own documentation for pretraining data:

- ``datasets``: the two maps of transformers' ``examples/pytorch/language-modeling/run_clm.py``, with ``num_proc``.
- ``litdata``: ``optimize`` with a generator and ``TokensLoader``, chunks of 50 MB (litgpt's
  ``litgpt/data/text_files.py`` and litdata's README, "LLM pre-training").
- ``datatrove``: ``JsonlReader`` and ``DocumentTokenizer``, one task a file (``examples/tokenize_from_hf_to_s3.py``);
  documents are shuffled within a file, which is its default.
"""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

BATCH_CHARACTERS = 1 << 23  # text per call of the bare tokenizer
RUN_CLM_BLOCK = 1024  # run_clm's own default


def texts_of(files):
    """Texts of the JSON-lines files, in order."""
    for file in files:
        with Path(file).open(encoding="utf-8") as lines:
            yield from (json.loads(line)["text"] for line in lines)


def batches_of(texts):
    """Lists of texts of about BATCH_CHARACTERS."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _bare(method, job):
    from tokenizers import Tokenizer

    os.environ |= {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(job["cores"])}
    tokenizer = Tokenizer.from_file(f"{job['tokenizer']}/tokenizer.json")
    texts = list(texts_of(job["files"]))
    encode = getattr(tokenizer, method)
    began = time.perf_counter()
    tokens = 0
    for batch in batches_of(texts):
        tokens += sum(len(encoding.ids) + 1 for encoding in encode(batch, add_special_tokens=False))
    return {"seconds": time.perf_counter() - began, "tokens": tokens, "documents": len(texts)}


def bare_threads(job):
    """The Rust tokenizer's threads over text in memory, ids only counted: no file is read or written."""
    return _bare("encode_batch", job)


def bare_threads_fast(job):
    """The same without character offsets."""
    return _bare("encode_batch_fast", job)


def _encode_share(tokenizer_json, texts):
    from tokenizers import Tokenizer

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.encode_batch_fast(["a"])
    began, tokens = time.perf_counter(), 0
    for batch in batches_of(texts):
        tokens += sum(
            len(encoding.ids) + 1 for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False)
        )
    return began, time.perf_counter(), tokens


def bare_processes(job):
    """One process per core of one thread each, over shares of the text (by characters) already in its memory."""
    import multiprocessing

    texts = list(texts_of(job["files"]))
    shares = [[] for _ in range(job["cores"])]
    sizes = [0] * len(shares)
    for text in sorted(texts, key=len, reverse=True):
        least = sizes.index(min(sizes))
        shares[least].append(text)
        sizes[least] += len(text)
    spec = Path(job["tokenizer"], "tokenizer.json").read_text()
    count = len(texts)
    del texts
    with ProcessPoolExecutor(job["cores"], mp_context=multiprocessing.get_context("fork")) as pool:
        done = list(pool.map(partial(_encode_share, spec), shares))
    seconds = max(end for _, end, _ in done) - min(begin for begin, _, _ in done)
    return {"seconds": seconds, "tokens": sum(tokens for *_, tokens in done), "documents": count}


def lit_long(job):
    """``lit-long prepare`` through its Python entry."""
    import datasets  # noqa: F401 - it imports them when it needs them; others' imports are not counted either
    import transformers  # noqa: F401

    from lit_long.data.corpus import TokenCorpus
    from lit_long.data.prepare import PrepareConfig, prepare
    from lit_long.data.sources import Source

    config = PrepareConfig(
        tokenizer=job["tokenizer"],
        sources=tuple(Source(path=file) for file in job["files"]),
        output=job["output"],
        processes=job["cores"],
    )
    began = time.perf_counter()
    prepare(config)
    seconds = time.perf_counter() - began
    corpus = TokenCorpus(job["output"])
    return {"seconds": seconds, "tokens": corpus.tokens, "documents": corpus.documents}


def _tokenize_rows(tokenizer, rows):
    return tokenizer([text + tokenizer.eos_token for text in rows["text"]])


def _group(size, rows):
    joined = {key: [value for row in values for value in row] for key, values in rows.items()}
    total = len(joined["input_ids"]) // size * size
    found = {key: [values[at : at + size] for at in range(0, total, size)] for key, values in joined.items()}
    return found | {"labels": found["input_ids"].copy()}


def datasets_run_clm(job):
    """``datasets``: tokenise, then group into blocks of ``block`` tokens, dropping the rest of each 1,000 documents."""
    from datasets import load_dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"])
    began = time.perf_counter()
    # a document is longer than the model: run_clm silences the warning about it as well
    tokenizer.model_max_length = 10**12
    raw = load_dataset("json", data_files=job["files"], split="train", cache_dir=f"{job['output']}/cache")
    rows = raw.map(
        partial(_tokenize_rows, tokenizer), batched=True, num_proc=job["cores"], remove_columns=raw.column_names
    )
    blocks = rows.map(partial(_group, job["block"]), batched=True, num_proc=job["cores"])
    seconds = time.perf_counter() - began
    before = sum(len(ids) for ids in rows.with_format("numpy").select_columns("input_ids")["input_ids"])
    return {
        "seconds": seconds,
        "tokens": len(blocks) * job["block"],
        "tokens_before_grouping": before,
        "documents": len(rows),
    }


def _tokenize_file(tokenizer, eos, file):
    import torch

    for text in texts_of([file]):
        yield torch.tensor([*tokenizer.encode(text, add_special_tokens=False).ids, eos], dtype=torch.int)


def litdata_optimize(job):
    """``litdata``: ``optimize`` over the files; a worker takes one file at a time."""
    from litdata import TokensLoader, optimize
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{job['tokenizer']}/tokenizer.json")
    began = time.perf_counter()
    optimize(
        fn=partial(_tokenize_file, tokenizer, job["eos"]),
        inputs=job["files"],
        output_dir=job["output"],
        chunk_bytes="50MB",
        num_workers=min(job["cores"], len(job["files"])),
        item_loader=TokensLoader(),
    )
    seconds = time.perf_counter() - began
    chunks = json.loads(Path(job["output"], "index.json").read_text())["chunks"]
    return {
        "seconds": seconds,
        "tokens": sum(chunk["dim"] for chunk in chunks),
        "documents": sum(chunk["chunk_size"] for chunk in chunks),
    }


def datatrove_tokenizer(job):
    """``datatrove``: read and tokenise, one task a file, ``cores`` at once."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    files = job["files"]
    began = time.perf_counter()
    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(Path(files[0]).parent), glob_pattern="*.jsonl"),
            DocumentTokenizer(
                f"{job['output']}/tokens",
                tokenizer_name_or_path=f"{job['tokenizer']}/tokenizer.json",
                eos_token=job["eos_token"],
                batch_size=1000,  # its docstring's figure; a batch of 10,000 such documents is all of the text
            ),
        ],
        tasks=len(files),
        workers=job["cores"],
        logging_dir=f"{job['output']}/logs",
    ).run()
    seconds = time.perf_counter() - began
    wide = 4 if job["vocabulary"] > 1 << 16 else 2
    written = list(Path(job["output"], "tokens").glob("*.ds"))
    return {
        "seconds": seconds,
        "tokens": sum(file.stat().st_size for file in written) // wide,
        "documents": sum(Path(f"{file}.index").stat().st_size for file in written) // 8,
    }


WAYS = {
    "lit-long prepare": lit_long,
    "tokenizers, encode_batch_fast, processes": bare_processes,
    "tokenizers, encode_batch_fast, threads": bare_threads_fast,
    "tokenizers, encode_batch, threads": bare_threads,
    "datasets map + group_texts": datasets_run_clm,
    "litdata optimize": litdata_optimize,
    "datatrove DocumentTokenizer": datatrove_tokenizer,
}
BARE = [name for name in WAYS if name.startswith("tokenizers")]
