"""Stages of real text through PretrainData: killed in each stage, resumed with other micro-batches, on two ranks."""

import json
import os
import socket

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_long.callbacks import Throughput
from lit_long.data import PretrainData
from lit_long.data.schedule import LengthSchedule, Stage
from lit_long.loggers import JSONLLogger
from lit_long.module import LongContextModule
from lit_long.optim import OptimizerSettings
from lit_long.rope import ABF, NoScaling

STEPS = 6


def fit(corpus, model, folder, *, micro_batches=(16, 2, 2), stop=None, ckpt=None, strategy="auto"):
    """64 tokens for 2 steps, 128 for 2, 256 for 2; ``stop`` kills the run at that step."""
    pl.seed_everything(3)
    lengths = (64, 1 / 3), (128, 2 / 3), (256, None)
    stages = [
        Stage(sequence_length=n, until=u, micro_batch=m) for (n, u), m in zip(lengths, micro_batches, strict=True)
    ]
    data = PretrainData(corpus=str(corpus), schedule=LengthSchedule(tuple(stages)), tokens_per_step=1024, seed=5)
    lit = LongContextModule(
        model=str(model),
        context_length=256,
        rope_schedule=[NoScaling(), ABF(base=50_000.0), ABF()],
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup_steps=2),
    )

    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == stop:
                raise KeyboardInterrupt

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1 if strategy == "auto" else 2,
        strategy=strategy,
        max_steps=STEPS,
        logger=JSONLLogger(save_dir=str(folder)),
        log_every_n_steps=1,
        callbacks=[Throughput(), ModelCheckpoint(every_n_train_steps=1, save_last=True), Kill()],
        enable_progress_bar=False,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(lit, data, ckpt_path=ckpt)
    except SystemExit:  # what Lightning makes of Ctrl-C
        assert stop is not None
    return lit


def metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "grad_norm", "lr", "flops", "tokens", "stage", "sequence_length")
    return {row["step"]: [row[name] for name in names] for row in rows if "loss" in row}


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_killed_in_any_stage(corpus_dir, tiny_model_dir, tmp_path, stop):
    straight = fit(corpus_dir, tiny_model_dir, tmp_path / "straight")
    fit(corpus_dir, tiny_model_dir, tmp_path / "cut", stop=stop)
    resumed = fit(corpus_dir, tiny_model_dir, tmp_path / "cut", ckpt="last")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "straight")
    assert sorted(metrics(tmp_path / "cut")) == list(range(STEPS))
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_accumulation_and_a_change_of_it_at_resume_change_nothing(corpus_dir, tiny_model_dir, tmp_path):
    fit(corpus_dir, tiny_model_dir, tmp_path / "constant", micro_batches=(16, 8, 4))
    fit(corpus_dir, tiny_model_dir, tmp_path / "cut", stop=3)
    fit(corpus_dir, tiny_model_dir, tmp_path / "cut", ckpt="last", micro_batches=(4, 8, 1))
    constant, cut = metrics(tmp_path / "constant"), metrics(tmp_path / "cut")
    for step in range(STEPS):
        assert cut[step] == pytest.approx(constant[step], rel=1e-5), step


def _rank(rank, port, arguments):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    torch.set_num_threads(1)
    fit(*arguments, micro_batches=(4, 1, 2), strategy="ddp")


def test_two_ranks_do_the_same_steps_and_count_the_work_of_both(corpus_dir, tiny_model_dir, tmp_path):
    fit(corpus_dir, tiny_model_dir, tmp_path / "one")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (corpus_dir, tiny_model_dir, tmp_path / "two")
    torch.multiprocessing.start_processes(_rank, (port, arguments), nprocs=2, start_method="fork")
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert sorted(two) == list(range(STEPS))
    for step in range(STEPS):
        assert two[step] == pytest.approx(one[step], rel=1e-5), step
