"""Runs with stages: accumulation, positions and learning rate switch at the right step, and survive a kill."""

import json
from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from staged_data import StagedData

from lit_long.callbacks import StepProgress, Throughput
from lit_long.loggers import JSONLLogger
from lit_long.module import LongContextModule
from lit_long.optim import OptimizerSettings
from lit_long.rope import ABF, NoScaling

# 9 steps of 1,024 tokens: 3 of 64 x 16 (accumulation 1), 3 of 128 x 8 (4), 3 of 256 x 4 (2)
VARIED = [(64, 1 / 3, 16), (128, 2 / 3, 2), (256, None, 2)]
CONSTANT = [(64, 1 / 3, 16), (128, 2 / 3, 8), (256, None, 4)]
ROPES = [NoScaling(), ABF(base=50_000.0), ABF(base=500_000.0)]
STEPS = 9


class Watch(pl.Callback):
    """What is live in each step, and where validation ran."""

    def __init__(self, stop=None):
        self.stop, self.batches, self.bases, self.shapes, self.validated = stop, Counter(), {}, {}, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        step = trainer.global_step
        if self.stop is not None and step == self.stop:
            raise KeyboardInterrupt

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        pass

    def on_validation_end(self, trainer, pl_module):
        self.validated.append(trainer.global_step)

    def on_before_backward(self, trainer, pl_module, loss):
        step = trainer.global_step
        self.batches[step] += 1
        if isinstance(pl_module, LongContextModule):
            self.bases[step] = pl_module.model.config.rope_parameters["rope_theta"]


def fit(model, folder, stages, *, ropes=ROPES, stop=None, ckpt=None, validation=False, interval=None, **options):
    pl.seed_everything(3)
    watch = Watch(stop)
    settings = {"learning_rate": 3e-3, "warmup_steps": 2} | options.pop("optimizer", {})
    weights = {"model": str(model)} if model is not None else {}
    lit = LongContextModule(
        **weights, context_length=256, rope_schedule=ropes, optimizer=OptimizerSettings(**settings), **options
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=JSONLLogger(save_dir=str(folder)),
        log_every_n_steps=1,
        callbacks=[
            Throughput(),
            StepProgress(plain_every=0),
            ModelCheckpoint(every_n_train_steps=1, save_top_k=-1, save_last=True, filename="{step}"),
            watch,
        ],
        check_val_every_n_epoch=None,
        val_check_interval=interval,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
    )
    try:
        trainer.fit(lit, StagedData(stages, validation=validation), ckpt_path=ckpt)
    except SystemExit:  # what Lightning makes of Ctrl-C
        assert stop is not None
    return lit, trainer, watch


def metrics(folder, *names):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: tuple(row[name] for name in names) for row in rows if "loss" in row}


def test_accumulation_switches_at_the_stage_and_changes_nothing(tiny_model_dir, tmp_path):
    _, trainer, watch = fit(tiny_model_dir, tmp_path / "varied", VARIED)
    assert watch.batches == {0: 1, 1: 1, 2: 1, 3: 4, 4: 4, 5: 4, 6: 2, 7: 2, 8: 2}
    assert trainer.global_step == STEPS
    assert trainer.fit_loop.epoch_loop.batch_progress.total.completed == STEPS * 2  # in units of the last stage
    fit(tiny_model_dir, tmp_path / "constant", CONSTANT)
    varied, constant = (
        metrics(tmp_path / n, "loss", "grad_norm", "lr", "tokens", "sequence_length", "stage", "flops")
        for n in ("varied", "constant")
    )
    assert sorted(varied) == list(range(STEPS))
    for step in range(STEPS):
        assert varied[step] == pytest.approx(constant[step], rel=1e-6 if step < 4 else 1e-4), step
    assert [varied[step][5] for step in range(STEPS)] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [varied[step][4] for step in (0, 3, 6)] == [64, 128, 256]


@pytest.mark.parametrize("stop", [2, 4, 5, 7, 9])
def test_a_killed_run_goes_on_exactly_in_every_stage(tiny_model_dir, tmp_path, stop):
    names = ("loss", "grad_norm", "lr", "flops", "tokens", "stage")
    straight, *_ = fit(tiny_model_dir, tmp_path / "straight", VARIED)
    fit(tiny_model_dir, tmp_path / "cut", VARIED, stop=stop)
    resumed, _, watch = fit(tiny_model_dir, tmp_path / "cut", VARIED, ckpt="last")
    assert metrics(tmp_path / "cut", *names) == metrics(tmp_path / "straight", *names)
    assert min(watch.batches) == stop - 1  # the checkpoint of the last step was not written any more
    assert watch.batches[5] in (0, 4)
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
