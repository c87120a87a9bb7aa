"""What Throughput logs, against counts made by hand and clocks that are set by the test."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.profilers import PassThroughProfiler

from lit_long.callbacks import Throughput, fetch_clock, own_clock, throughput
from lit_long.callbacks.fetch_clock import FetchClock
from lit_long.callbacks.own_clock import OwnClock
from lit_long.callbacks.progress import StepProgress
from lit_long.data import PretrainData
from lit_long.errors import UserError
from lit_long.flops import causal_pairs, model_flops
from lit_long.loggers import JSONLLogger
from lit_long.module import LongContextModule
from tests.gloo import run_ranks

STEPS = 3


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def fit(corpus_dir, model_dir, folder, *callbacks, devices=1, **options):
    module = LongContextModule(model=str(model_dir), context_length=256)
    data = PretrainData(corpus=str(corpus_dir), sequence_length=128, tokens_per_step=1024, micro_batch=2)
    trainer = Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_steps=STEPS,
        log_every_n_steps=1,
        logger=JSONLLogger(save_dir=str(folder)),
        callbacks=[Throughput(**options), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
    )
    trainer.fit(module, data)
    rows = [json.loads(line) for line in next(folder.rglob("metrics.jsonl")).read_text().splitlines()]
    return [row for row in rows if "tokens_per_second" in row], trainer, module, data


def test_work_is_that_of_the_documents_and_mfu_its_share_of_the_peak(corpus_dir, tiny_model_dir, tmp_path):
    rows, _, module, data = fit(corpus_dir, tiny_model_dir, tmp_path, peak_flops=1e12, window=1)
    assert len(rows) == STEPS
    costs = model_flops(module.model)
    total = 0.0
    batches = iter(data.train_dataloader())
    for row in rows:
        pairs = sum(int(causal_pairs(next(batches))) for _ in range(1024 // 256))
        work = costs.step(1024, pairs)
        total += work
        assert row["flops"] == pytest.approx(total, rel=1e-6)
        assert row["mfu"] == pytest.approx(row["tflops_per_second"] * 1e12 / 1e12, rel=1e-5)
        # seconds by tokens and by FLOPs are the same seconds
        assert row["tflops_per_second"] * 1e12 / row["tokens_per_second"] == pytest.approx(work / 1024, rel=1e-5)
        assert row["tokens_per_second_per_device"] == row["tokens_per_second"]
        assert 0 <= row["data_wait"] < 1
        assert 0.05 < row["peak_memory_gib"] < 100
        assert "straggler" not in row
        assert "recomputed_tflops_per_second" not in row


def test_recomputation_is_apart(corpus_dir, tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(LongContextModule, "recomputed", {"layers": 0.5, "attention": 0.0}, raising=False)
    rows, _, module, _ = fit(corpus_dir, tiny_model_dir, tmp_path, window=1)
    costs = model_flops(module.model)
    for row in rows:
        share = row["recomputed_tflops_per_second"] * 1e12 / row["tokens_per_second"]
        assert share == pytest.approx(costs.trained - costs.head, rel=1e-5)  # half of 2 FLOPs a weight and token
        assert "mfu" not in row  # no peak is known for a CPU


def test_waiting_is_what_lightning_waits_for_a_batch(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(fetch_clock.time, "perf_counter", clock.perf_counter)
    told = []

    class Profiler(PassThroughProfiler):
        def start(self, action_name):
            told.append(action_name)

    trainer = SimpleNamespace(profiler=Profiler())
    waits = FetchClock()
    waits.attach(trainer)
    for action, seconds in (("[_TrainingEpochLoop].train_dataloader_next", 2.0), ("run_training_batch", 5.0)):
        with trainer.profiler.profile(action):
            clock.now += seconds
    assert told == ["[_TrainingEpochLoop].train_dataloader_next", "run_training_batch"]  # it goes on as before
    assert waits.take() == 2.0
    assert waits.take() == 0.0
    waits.detach()
    with trainer.profiler.profile("[_TrainingEpochLoop].train_dataloader_next"):
        clock.now += 1.0
    assert waits.take() == 0.0
    assert vars(trainer.profiler).keys() == vars(Profiler()).keys()


def test_waiting_is_counted_in_a_fit_and_the_profiler_left_alone(corpus_dir, tiny_model_dir, tmp_path, monkeypatch):
    clock = Clock()
    fake = SimpleNamespace(perf_counter=clock.perf_counter)
    monkeypatch.setattr(fetch_clock, "time", fake)
    monkeypatch.setattr("lit_long.callbacks.throughput.time", fake)
    real = LongContextModule.training_step

    def step(self, batch, index):
        clock.now += 1.0
        return real(self, batch, index)

    class Slow(PretrainData):
        def train_dataloader(self):
            loader = super().train_dataloader()
            fetch = type(loader).__iter__

            class SlowLoader(type(loader)):
                def __iter__(self):
                    for batch in fetch(self):
                        clock.now += 3.0
                        yield batch

            loader.__class__ = SlowLoader
            return loader

    monkeypatch.setattr(LongContextModule, "training_step", step)
    monkeypatch.setitem(fit.__globals__, "PretrainData", Slow)
    rows, trainer, _, _ = fit(corpus_dir, tiny_model_dir, tmp_path, window=1)
    assert rows[1]["data_wait"] == pytest.approx(0.75)  # 4 micro-batches of 1 s, 3 s of waiting for each
    assert rows[1]["tokens_per_second"] == pytest.approx(1024 / 16)
    assert not {"start", "stop"} & vars(trainer.profiler).keys()


def test_own_time_ends_with_the_last_mark(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(own_clock.time, "perf_counter", clock.perf_counter)
    own = OwnClock()
    own.start(torch.device("cpu"))
    for _ in range(2):
        clock.now += 1.5
        own.mark()
    clock.now += 10.0  # the backward pass in which gradients are exchanged
    assert own.seconds() == 3.0


def two_ranks(rank, corpus_dir, model_dir, folder):
    import os

    os.environ |= {"LOCAL_RANK": str(rank), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "test"}
    OwnClock.seconds = lambda self: 1.0 + 2 * rank
    fit(corpus_dir, model_dir, folder, devices=2, window=1)
    return rank


def test_ranks_are_compared(corpus_dir, tiny_model_dir, tmp_path):
    run_ranks(two_ranks, tmp_path, corpus_dir, tiny_model_dir, tmp_path / "run")
    rows = [json.loads(line) for line in next((tmp_path / "run").rglob("metrics.jsonl")).read_text().splitlines()]
    rows = [row for row in rows if "straggler" in row]
    assert len(rows) == STEPS
    for row in rows:
        assert row["straggler"] == pytest.approx(3 / 2 - 1)
        assert 0 <= row["work_spread"] < 1
        assert row["tokens_per_second"] == pytest.approx(2 * row["tokens_per_second_per_device"])


def test_the_peak_of_a_gpu_counts_where_parameters_are_gathered_in_bfloat16(monkeypatch):
    monkeypatch.setattr(throughput, "peak_flops", lambda device: 989.5e12)
    module = SimpleNamespace(device=torch.device("cpu"), print=print)
    for precision, param_dtype, peak in (
        ("32-true", "bfloat16", 989.5e12), ("bf16-mixed", None, 989.5e12), ("32-true", "float32", None),
        ("32-true", None, None),
    ):  # fmt: skip
        strategy = SimpleNamespace(sharding=SimpleNamespace(param_dtype=param_dtype)) if param_dtype else object()
        trainer = SimpleNamespace(
            precision=precision, strategy=strategy, global_step=0, is_global_zero=True, profiler=PassThroughProfiler()
        )
        callback = Throughput()
        callback.on_train_start(trainer, module)
        assert callback._peak == peak, (precision, param_dtype)


def test_bars_show_the_work_and_tokens_are_counted_step_by_step(corpus_dir, tiny_model_dir, tmp_path):
    rows, trainer, _, _ = fit(corpus_dir, tiny_model_dir, tmp_path, peak_flops=1e12, window=1)
    assert {"tokens_per_second", "mfu", "peak_memory_gib", "data_wait"} <= trainer.progress_bar_metrics.keys()
    assert [row["tokens"] for row in rows] == [1024, 2048, 3072]
    state = next(each for each in trainer.callbacks if isinstance(each, Throughput)).state_dict()
    assert state["tokens"] == 3072
    resumed = Throughput()
    resumed.load_state_dict(state | {"tokens": 5000})  # steps of another size came before
    assert resumed.state_dict()["tokens"] == 5000
    shown = StepProgress()._metrics(trainer)
    assert re.search(r"MFU \d+%  \d+\.\d GiB  data wait \d+%", shown), shown


@pytest.mark.parametrize("batch", [(torch.zeros(1, 8),), {"ids": torch.zeros(1, 8)}])
def test_batches_whose_tokens_cannot_be_counted_are_one_clear_error(batch):
    callback = Throughput()
    trainer = SimpleNamespace(global_step=0, world_size=1)
    with pytest.raises(UserError, match=r"dicts with input_ids \[B, S\]; this batch is a (tuple|dict with \['ids'\])"):
        callback.on_train_batch_start(trainer, SimpleNamespace(device=torch.device("cpu")), batch, 0)


@pytest.mark.parametrize("options", [{"window": 0}, {"peak_flops": 0.0}])
def test_mistakes(options):
    with pytest.raises(UserError, match="both must be above 0"):
        Throughput(**options)
