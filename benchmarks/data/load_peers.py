"""What each way of loading does with the same tokens: run by ``load.py``, each measurement in its own process.

All give batches of int64 tensors, shuffled, of the same number of tokens (``job["sequences"]`` of ``job["length"]``):

- lit-long: ``StepLoader`` over a ``StepPlan`` of 2^20 tokens a step: ids, shifted targets, positions that restart at
  each document, ``cu_seqlens`` and the step's exact number of targets.
- ``datasets``: the blocks of ``group_texts`` (int32 in Arrow, one column) through torch's ``DataLoader``, with the
  numpy format and a collate function that makes one array of a batch. Labels are the ids themselves, no copy: Hugging
  Face models shift them.
- ``litdata``: ``StreamingDataset`` with ``TokensLoader(length + 1)`` and ``StreamingDataLoader``; ids and targets are
  cut out and made int64 as litgpt's ``pretrain.py`` does.
- ``datatrove``: ``DatatroveFolderDataset`` through torch's ``DataLoader`` with a sampler that shuffles.

The peers' batches know nothing of documents. Loaders with workers keep them between passes.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

STEP_TOKENS = 1 << 20
MANY = 10**9  # steps of a run that has no end


def sequences_of(corpus, length):
    """The corpus as blocks of ``length`` tokens, int32, the tail left out: what grouping gives."""
    for start in range(0, corpus.tokens - length + 1, length):
        yield corpus.read(start, start + length).astype("int32")


# --- writing the peers' own formats from a token corpus, before anything is timed


def write_datasets(job, folder):
    from datasets import Dataset, Features, List, Value

    from lit_long.data.corpus import TokenCorpus

    def rows(corpus):
        for block in sequences_of(TokenCorpus(corpus), job["length"]):
            yield {"input_ids": block}

    features = Features({"input_ids": List(Value("int32"))})
    few = max(1, (1 << 22) // job["length"])
    data = Dataset.from_generator(
        partial(rows, job["corpus"]), features=features, cache_dir=f"{folder}/cache", writer_batch_size=few
    )
    data.save_to_disk(f"{folder}/data")


def _documents(corpus, numbers):
    import torch

    from lit_long.data.corpus import TokenCorpus

    opened = TokenCorpus(corpus)
    for number in range(*numbers):
        yield torch.tensor(opened.document(number), dtype=torch.int)


def write_litdata(job, folder):
    from litdata import TokensLoader, optimize

    from lit_long.data.corpus import TokenCorpus

    count, parts = TokenCorpus(job["corpus"]).documents, 2
    ranges = [(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
    optimize(
        fn=partial(_documents, job["corpus"]),
        inputs=ranges,
        output_dir=str(folder),
        chunk_bytes="50MB",
        num_workers=1,
        item_loader=TokensLoader(),
    )


def write_datatrove(job, folder):
    import numpy as np

    from lit_long.data.corpus import TokenCorpus

    corpus = TokenCorpus(job["corpus"])
    wide = np.uint16 if corpus.info["tokenizer"]["vocab_size"] <= 1 << 16 else np.uint32
    folder.mkdir(parents=True)
    with (folder / "000_tokens.ds").open("wb") as out:
        for number in range(corpus.documents):
            out.write(corpus.document(number).astype(wide).tobytes())
    (folder / "000_tokens.ds.index").write_bytes(corpus.starts[1:].astype("<u8").tobytes())


# --- loaders: each is gone over again and again; ``skip`` batches are resumed after


def step_plan(job, packing):
    from lit_long.data import LengthSchedule, Mixture, MixtureSource, Stage
    from lit_long.data.mixture import build_parts
    from lit_long.data.plan import StepPlan

    parts = build_parts(Mixture(sources={"all": MixtureSource(corpus=job["corpus"])}))
    schedule = LengthSchedule((Stage(sequence_length=job["length"]),))
    tokens = max(STEP_TOKENS, job["length"])
    spans = schedule.spans(steps=MANY, tokens_per_step=tokens, micro_batch=job["sequences"])
    return StepPlan(parts, spans=spans, tokens_per_step=tokens, packing=packing)


def open_lit_long(packing, job, skip=0):
    from lit_long.data.loader import StepLoader

    plan = step_plan(job, packing)
    loader = StepLoader(plan, steps=MANY, workers=job["workers"])
    per_step = plan.tokens_per_step // (job["length"] * job["sequences"])
    if skip:
        assert skip % per_step == 0, "lit-long resumes at optimizer steps"
        plan.restore(json.loads(Path(job["state"]).read_text()))
        loader.load_state_dict({"step": skip // per_step})
    return loader


def _dataloader(dataset, job, collate, skip):
    """torch's DataLoader, shuffled; batches to skip are taken off the sampler, as Hugging Face's Trainer does."""
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    order = RandomSampler(dataset, generator=torch.Generator().manual_seed(0))
    batches = BatchSampler(order, job["sequences"], drop_last=True)
    if skip:
        batches = list(batches)[skip:]
    workers = job["workers"]
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=workers, collate_fn=collate, persistent_workers=workers > 0
    )


def _collate_blocks(rows):
    import numpy as np
    import torch

    ids = torch.from_numpy(np.stack([row["input_ids"] for row in rows]).astype(np.int64))
    return {"input_ids": ids, "labels": ids}


def open_datasets(job, skip=0):
    from datasets import load_from_disk

    data = load_from_disk(f"{job['folder']}/data").with_format("numpy")
    return _dataloader(data, job, _collate_blocks, skip)


class _TargetsOf:
    """Ids and targets of sequences that are one token longer."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        for batch in self.loader:
            yield {"input_ids": batch[:, :-1].contiguous().long(), "targets": batch[:, 1:].contiguous().long()}

    def save(self, file):
        Path(file).write_text(json.dumps(self.loader.state_dict()))


def open_litdata(job, skip=0):
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    data = StreamingDataset(
        input_dir=job["folder"],
        item_loader=TokensLoader(block_size=job["length"] + 1),
        shuffle=True,
        drop_last=True,
        seed=0,
    )
    workers = job["workers"]
    loader = StreamingDataLoader(
        data, batch_size=job["sequences"], num_workers=workers, drop_last=True, persistent_workers=workers > 0
    )
    if skip:
        state = json.loads(Path(job["state"]).read_text())
        loader.load_state_dict(state)
    return _TargetsOf(loader)


def _collate_datatrove(rows):
    import torch

    batch = torch.stack([row["input_ids"] for row in rows])
    return {"input_ids": batch[:, :-1], "targets": batch[:, 1:]}


def open_datatrove(job, skip=0):
    from datatrove.utils.dataset import DatatroveFolderDataset

    data = DatatroveFolderDataset(job["folder"], job["length"], filename_pattern="*.ds", token_size=job["token_size"])
    return _dataloader(data, job, _collate_datatrove, skip)


def digest(batch):
    """What a batch holds, to compare a resumed run with."""
    return hashlib.sha256(batch["input_ids"].numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Way:
    """``open`` (job, batches to skip) -> loader; ``write`` (job, folder): the format it reads; workers to try."""

    open: Callable[..., Any]
    write: Callable[..., None] | None = None
    workers: tuple[int, ...] = (0, 2)


WAYS = {
    "lit-long, concat": Way(partial(open_lit_long, "concat"), workers=(0, 1)),
    "lit-long, best_fit": Way(partial(open_lit_long, "best_fit"), workers=(0, 1)),
    "datasets + DataLoader": Way(open_datasets, write_datasets),
    "litdata StreamingDataLoader": Way(open_litdata, write_litdata),
    "datatrove + DataLoader": Way(open_datatrove, write_datatrove),
}
_OURS = ("torch", "lit_long.data.loader", "lit_long.data.mixture", "lit_long.data.plan", "pyarrow.ipc")
IMPORTS = {
    "lit-long, concat": _OURS,
    "lit-long, best_fit": _OURS,
    "datasets + DataLoader": ("torch.utils.data", "datasets"),
    "litdata StreamingDataLoader": ("torch", "litdata"),
    "datatrove + DataLoader": ("torch.utils.data", "datatrove.utils.dataset"),
}
