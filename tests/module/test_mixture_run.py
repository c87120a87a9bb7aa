"""A mixture in training: killed, resumed on two ranks, every document accounted for; asked against achieved."""

import json
import os
import socket

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from lit_long.callbacks import DataReport
from lit_long.data import LengthSchedule, LongUpsample, Mixture, MixtureSource, PretrainData, Stage
from lit_long.data.ledger import read_ledger
from lit_long.errors import UserError
from lit_long.loggers import JSONLLogger
from lit_long.module import LongContextModule
from lit_long.optim import OptimizerSettings

STEPS = 8


def mixture(corpus, **options):
    sources = {"plays": MixtureSource(corpus=str(corpus)), "alice": MixtureSource(corpus=str(corpus), split="held_out")}
    options = {"weights": {"plays": 3, "alice": 1}, "max_epochs": 2} | options
    return Mixture(sources=sources, **options)


def fit(corpus, model, folder, *, packing="best_fit", stop=None, ckpt=None, ranks=1, steps=STEPS, **options):
    """``stop`` kills the run in that step; its last checkpoint is a step older."""
    pl.seed_everything(3)
    stages = (Stage(sequence_length=64, until=0.5), Stage(sequence_length=256))
    options = {
        "mixture": mixture(corpus), "schedule": LengthSchedule(stages), "tokens_per_step": 1024, "packing": packing,
        "micro_batch": 2 if ranks == 1 else 1, "seed": 5, "ledger": str(folder / "ledger"),
        "validation_split": "held_out", "validation_sequences": 2,
    } | options  # fmt: skip
    data = PretrainData(**options)
    lit = LongContextModule(
        model=str(model), context_length=256, optimizer=OptimizerSettings(learning_rate=1e-3, warmup_steps=2)
    )

    class Kill(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == stop:
                if ranks > 1:
                    os._exit(0)  # every rank dies here, as in a kill; nobody waits for the other
                raise KeyboardInterrupt

    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_steps=steps,
        logger=JSONLLogger(save_dir=str(folder)),
        log_every_n_steps=1,
        callbacks=[ModelCheckpoint(every_n_train_steps=2, save_last=True), Kill(), DataReport(every_n_steps=2)],
        enable_progress_bar=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        val_check_interval=16,
    )
    try:
        trainer.fit(lit, data, ckpt_path=ckpt)
    except SystemExit:  # what Lightning makes of Ctrl-C
        assert stop is not None
    return trainer, data


def _rank(rank, port, arguments, options):
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
    fit(*arguments, **options, ranks=2)


def on_two_ranks(*arguments, **options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_rank, (port, arguments, options), nprocs=2, start_method="fork")


def losses(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.mark.parametrize("packing", ["concat", "best_fit", "single"])
def test_killed_and_resumed_on_two_ranks_and_again_on_one(corpus_dir, tiny_model_dir, tmp_path, packing):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    fit(corpus_dir, tiny_model_dir, straight, packing=packing)
    fit(corpus_dir, tiny_model_dir, cut, packing=packing, stop=3)  # checkpoint of step 2
    last = str(cut / "checkpoints" / "last.ckpt")
    on_two_ranks(corpus_dir, tiny_model_dir, cut, packing=packing, ckpt=last, stop=7)  # checkpoint of step 6
    fit(corpus_dir, tiny_model_dir, cut, packing=packing, ckpt="last")
    assert read_ledger(cut / "ledger") == read_ledger(straight / "ledger")
    assert losses(cut) == pytest.approx(losses(straight), rel=1e-5)
    reports = [json.loads((folder / "data_report.json").read_text()) for folder in (straight, cut)]
    assert reports[0] == reports[1]  # the counts went on
    assert reports[0]["steps_done"] == STEPS


def test_asked_and_achieved(corpus_dir, tiny_model_dir, tmp_path):
    rules = {"long_upsample": LongUpsample(over=4000, share=0.6)}
    trainer, _ = fit(
        corpus_dir, tiny_model_dir, tmp_path, packing="concat", steps=40, mixture=mixture(corpus_dir, **rules)
    )
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert report["steps_done"] == 40
    for source in report["sources"]:
        assert source["achieved"] == pytest.approx(source["asked"], abs=3 * 256)
    assert sum(s["achieved"] for s in report["sources"]) == 40 * 1024
    by_ledger = {}
    for (name, _, begin, end), times in read_ledger(tmp_path / "ledger").items():
        by_ledger[name] = by_ledger.get(name, 0) + (end - begin) * times
    for name in ("plays", "alice"):
        assert by_ledger[name] == sum(s["achieved"] for s in report["sources"] if s["source"].split(" ")[0] == name)
    assert by_ledger["plays"] / 40 / 1024 == pytest.approx(0.75, abs=0.02)
    long = [s for s in report["sources"] if s["source"].endswith("(long)")]
    assert sum(s["achieved_share"] for s in long) == pytest.approx(0.6, abs=0.03)
    assert report["native_length"] == 64
    assert report["beyond_native_achieved"] == 1.0
    assert (tmp_path / "data_report.png").stat().st_size > 10_000
    assert "asked" in (tmp_path / "data_report.md").read_text()
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert values["val_loss"] == pytest.approx((values["val_loss/plays"] + values["val_loss/alice"]) / 2, rel=0.05)


def test_a_source_that_is_repeated_too_often(corpus_dir, tiny_model_dir, tmp_path):
    weights = {"plays": 1e-4, "alice": 1}
    often = {"weights": weights, "max_epochs": 0.01}
    with pytest.raises(
        UserError, match=r"source 'alice' would be seen 0.\d times: [0-9,]+ tokens .* max_epochs is 0.01"
    ):
        fit(corpus_dir, tiny_model_dir, tmp_path, mixture=mixture(corpus_dir, **often, on_repeat="error"))
    assert not (tmp_path / "metrics.jsonl").exists()
    with pytest.warns(UserWarning, match="source 'alice' would be seen"):
        fit(corpus_dir, tiny_model_dir, tmp_path, mixture=mixture(corpus_dir, **often), steps=2)


def test_resuming_with_another_mixture_is_refused_unless_allowed(corpus_dir, tiny_model_dir, tmp_path):
    fit(corpus_dir, tiny_model_dir, tmp_path, steps=4)
    other = mixture(corpus_dir, weights={"plays": 1, "alice": 1})
    with pytest.raises(UserError, match=r"another data order: .* data.allow_changed_data: true"):
        fit(corpus_dir, tiny_model_dir, tmp_path, ckpt="last", mixture=other)
    # the stages of four steps are not those of eight
    with pytest.raises(UserError, match="another data order"):
        fit(corpus_dir, tiny_model_dir, tmp_path, ckpt="last")
    trainer, _ = fit(corpus_dir, tiny_model_dir, tmp_path, ckpt="last", mixture=other, allow_changed_data=True)
    assert trainer.global_step == STEPS


def test_a_run_without_an_end_is_refused(corpus_dir):
    data = PretrainData(corpus=str(corpus_dir), sequence_length=64, tokens_per_step=256)
    module = BoringModel()
    with pytest.raises(UserError, match="max_steps is not set"):
        pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False).fit(module, data)
