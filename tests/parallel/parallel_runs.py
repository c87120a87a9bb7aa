"""Whole training runs on real documents: on one process without any strategy, and on a mesh of ranks."""

import json
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.distributed.tensor import DTensor

from lit_long.callbacks import Throughput
from lit_long.data import PretrainData
from lit_long.loggers import JSONLLogger
from lit_long.model.levers import Levers
from lit_long.model.lora import LoraSettings
from lit_long.module import LongContextModule
from lit_long.optim import OptimizerSettings
from lit_long.rope import ABF
from tests.gloo import run_ranks

LENGTH = 251  # divisible by nothing


class KeepWeights(pl.Callback):
    """The trained weights at the end, whole, on every rank."""

    def on_train_end(self, trainer, pl_module):
        self.weights = {
            name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
            for name, p in pl_module.named_parameters()
            if p.requires_grad
        }


class Module(LongContextModule):
    """Adapters begin alike, whatever drew random numbers before."""

    def configure_model(self):
        if self.model is None:
            torch.manual_seed(7)
        super().configure_model()


def fit(
    corpus, model, folder, *, mesh=None, steps=4, micro_batch=1, rows=4, stop=None, ckpt=None, lora=False, levers=None,
    clip=0.5, save_every=None, length=LENGTH, packing="concat", config=None, callbacks=(), dropout=0.0, data=None,
    **strategy,
):  # fmt: skip
    """(losses, gradient norms, weights) of a run; ``mesh`` is (data-parallel, context-parallel)."""
    pl.seed_everything(7, verbose=False)
    module = Module(
        model=None if config else model,
        model_config=config,
        tokenizer=model,
        context_length=256,
        rope=ABF(base=50_000),
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup_steps=1),
        lora=LoraSettings(r=4, dropout=dropout) if lora else None,
        levers=Levers(**levers) if levers else None,
    )
    data = data() if data else PretrainData(
        corpus=corpus, sequence_length=length, tokens_per_step=rows * length, micro_batch=micro_batch, packing=packing,
        validation_split="held_out", validation_sequences=3,
    )  # fmt: skip
    if mesh is None:
        options = {"strategy": "auto"}
    else:
        from lit_long.parallel.strategy import ContextParallelStrategy

        options = {
            "strategy": ContextParallelStrategy(data_parallel_size=mesh[0], context_parallel_size=mesh[1], **strategy),
            "devices": mesh[0] * mesh[1],
        }
    keep = KeepWeights()
    savers = []
    if save_every:
        savers = [
            pl.callbacks.ModelCheckpoint(
                dirpath=Path(folder) / "checkpoints", every_n_train_steps=save_every, save_top_k=2,
                monitor="step", mode="max", save_last=True, enable_version_counter=False,
            )
        ]  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, logger=JSONLLogger(save_dir=str(folder)), log_every_n_steps=1,
        gradient_clip_val=clip, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        num_sanity_val_steps=0, check_val_every_n_epoch=None, val_check_interval=1000,
        enable_checkpointing=bool(savers), callbacks=[keep, Throughput(), *savers, *callbacks], **options,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt)
    metrics = trainer.validate(module, data, verbose=False) if stop is None else None
    return metrics, keep.weights


def _on_rank(rank, arguments, options):
    metrics, weights = fit(*arguments, **options)
    return {"metrics": metrics, "weights": weights}


def fit_on_mesh(corpus, model, folder, *, mesh, **options):
    """The same run on ranks; rank 0's results."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = (corpus, model, folder)
    found = run_ranks(_on_rank, folder, arguments, {"mesh": mesh, **options}, ranks=mesh[0] * mesh[1], join=False)
    for other in found[1:]:
        for name, value in other["weights"].items():
            assert torch.equal(value, found[0]["weights"][name]), name
    return found[0]["metrics"], found[0]["weights"]


def lines(folder, *names):
    """Values of the metrics file, by step: {step: (value of each name)}."""
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: tuple(row[name] for name in names) for row in rows if all(name in row for name in names)}
