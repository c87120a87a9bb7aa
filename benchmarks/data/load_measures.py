"""What is measured of a loader, inside a process of its own: speed, resuming, and memory by corpus size."""

import gc
import importlib
import json
import os
import time
from itertools import islice
from pathlib import Path

from load_peers import IMPORTS, WAYS, digest, step_plan
from measured import proportional_memory


def _open(job, skip=0):
    for module in IMPORTS[job["way"]]:  # imports are no part of the time to the first batch
        importlib.import_module(module)
    began = time.perf_counter()
    return WAYS[job["way"]].open(job, skip), began


def rate(job):
    """Tokens/s from the first batch of a pass to its last, over passes until ``job["seconds"]`` have gone.

    The wait for the first batch of each pass is left out and given as ``first_batch``: passes are short here, and what
    a loader does once in a pass must not count as if it did so every few seconds.
    """
    loader, began = _open(job)
    first = None
    tokens = batches = passes = 0
    busy = 0.0
    deadline = began + job["seconds"]
    while passes == 0 or time.perf_counter() < deadline:
        start = last = None
        for batch in loader:
            last = time.perf_counter()
            if start is None:
                start = last
                first = first if first is not None else last - began
                continue
            tokens += batch["input_ids"].numel()
            batches += 1
            if last > deadline:
                break
        assert start is not None, "no batch at all: the data is shorter than a sequence"
        busy += last - start
        passes += 1
        if not batches and passes == 3:
            raise SystemExit("a pass has one batch only: too little data to measure a rate")
    keys = sorted(key for key, value in batch.items() if hasattr(value, "shape"))
    return {
        "tokens_per_second": tokens / busy,
        "batches": batches,
        "passes": passes,
        "first_batch": first,
        "tensors": keys,
    }


def straight(job):
    """A run without a stop over ``job["skip"]`` batches and one more: seconds to the first, digest of the last."""
    loader, began = _open(job)
    iterator = iter(loader)
    next(iterator)
    first = time.perf_counter() - began
    for _ in islice(iterator, job["skip"] - 1):
        pass
    skipped = time.perf_counter() - began
    if hasattr(loader, "save"):
        loader.save(job["state"])
    found = digest(next(iterator))
    if job["way"].startswith("lit-long"):
        plan = step_plan(job, loader.plan.packing)
        Path(job["state"]).write_text(json.dumps(plan.anchors(loader.state_dict()["step"])))
    return {"first_batch": first, "seconds_to_place": skipped, "digest": found}


def resumed(job):
    """The same run, resumed: seconds to its first batch and that batch's digest."""
    loader, began = _open(job, job["skip"])
    batch = next(iter(loader))
    return {"first_batch": time.perf_counter() - began, "digest": digest(batch)}


def memory(job):
    """One pass over a corpus: what the loader added to this process' memory, in MiB."""
    from lit_long.data.corpus import TokenCorpus

    tokens = TokenCorpus(job["corpus"]).tokens
    for module in IMPORTS[job["way"]]:
        importlib.import_module(module)
    step_plan(job, "concat").step(0)  # what the first plan of a process imports and allocates
    gc.collect()
    before = proportional_memory(os.getpid())
    loader, began = _open(job)
    seen, most = 0, before
    for number, batch in enumerate(loader):
        seen += batch["input_ids"].numel()
        if number % 16 == 0 or seen >= tokens:
            most = tuple(max(pair) for pair in zip(most, proportional_memory(os.getpid()), strict=True))
        if seen >= tokens:
            break
    return {
        "corpus_mib": tokens * 4 / 2**20,
        "own": most[0] - before[0],
        "files": (most[1] - most[0]) - (before[1] - before[0]),
        "seconds": time.perf_counter() - began,
    }


MEASURES = {"rate": rate, "straight": straight, "resumed": resumed, "memory": memory}
