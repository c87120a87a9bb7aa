"""Runs with stages: accumulation, positions and learning rate switch at the right step, and survive a kill."""

import copy
import json
from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from staged_data import StagedData, batch, rows
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.attention import use_packed_attention
from lit_long.callbacks import StepProgress, Throughput
from lit_long.errors import UserError
from lit_long.loggers import JSONLLogger
from lit_long.model import load_for_inference
from lit_long.model.forward import next_token_loss
from lit_long.model.rope_stages import check_stages
from lit_long.module import LongContextModule
from lit_long.optim import OptimizerSettings, lr_factor
from lit_long.rope import ABF, NoScaling, YaRN

# 9 steps of 1,024 tokens: 3 of 64 x 16 (accumulation 1), 3 of 128 x 8 (4), 3 of 256 x 4 (2)
VARIED = [(64, 1 / 3, 16), (128, 2 / 3, 2), (256, None, 2)]
CONSTANT = [(64, 1 / 3, 16), (128, 2 / 3, 8), (256, None, 4)]
ROPES = [NoScaling(), ABF(base=50_000.0), ABF(base=500_000.0)]
STEPS = 9


class Watch(pl.Callback):
    """What is live in each step, where validation ran, and the loss of one batch after each step."""

    def __init__(self, stop=None):
        self.stop, self.batches, self.bases, self.validated, self.probed = stop, Counter(), {}, [], {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        step = trainer.global_step
        if self.stop is not None and step == self.stop:
            raise KeyboardInterrupt
        if step not in self.probed and isinstance(pl_module, LongContextModule):
            self.probed[step] = float(probe(pl_module.model))

    def on_before_backward(self, trainer, pl_module, loss):
        step = trainer.global_step
        self.batches[step] += 1
        if isinstance(pl_module, LongContextModule):
            self.bases[step] = pl_module.model.config.rope_parameters["rope_theta"]

    def on_validation_end(self, trainer, pl_module):
        self.validated.append(trainer.global_step)


@torch.no_grad()
def probe(model):
    return next_token_loss(model, batch(rows(-2, 256, 512), 1.0)).loss


def module(model, ropes=ROPES, **options):
    settings = {"learning_rate": 3e-3, "warmup_steps": 2} | options.pop("optimizer", {})
    options = {"context_length": 256, "rope_schedule": ropes, "optimizer": OptimizerSettings(**settings)} | options
    return LongContextModule(**({"model": model and str(model)} | options))


def trainer_of(folder, *callbacks, interval=None, clip=1.0, precision="32-true"):
    return pl.Trainer(
        precision=precision,
        accelerator="cpu",
        max_steps=STEPS,
        logger=JSONLLogger(save_dir=str(folder)),
        log_every_n_steps=1,
        callbacks=[
            Throughput(),
            StepProgress(plain_every=0),
            ModelCheckpoint(every_n_train_steps=1, save_top_k=-1, save_last=True, filename="{step}"),
            *callbacks,
        ],
        check_val_every_n_epoch=1 if isinstance(interval, float) else None,
        val_check_interval=interval,
        num_sanity_val_steps=0,
        gradient_clip_val=clip,
        use_distributed_sampler=False,
    )


def fit(lit, folder, stages, *, stop=None, ckpt=None, interval=None, data=None):
    """Train ``lit``; ``stop`` kills the run before the checkpoint of that step is written."""
    watch = Watch(stop)
    trainer = trainer_of(folder, watch, interval=interval)
    data = data or StagedData(stages, validation=interval is not None)
    try:
        trainer.fit(lit, data, ckpt_path=ckpt)
    except SystemExit:  # what Lightning makes of Ctrl-C
        assert stop is not None
    return trainer, watch


def metrics_of(folder, name):
    """(steps done, value) of each time that ``name`` was logged."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"] + 1, row[name]) for row in rows if name in row]


def metrics(folder, *names):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: tuple(row[name] for name in names) for row in rows if "loss" in row}


def test_accumulation_switches_at_the_stage_and_changes_nothing(tiny_model_dir, tmp_path, capsys):
    trainer, watch = fit(module(tiny_model_dir), tmp_path / "varied", VARIED)
    assert watch.batches == {0: 1, 1: 1, 2: 1, 3: 4, 4: 4, 5: 4, 6: 2, 7: 2, 8: 2}
    assert watch.bases == dict(enumerate([1e4] * 3 + [5e4] * 3 + [5e5] * 3))
    assert trainer.global_step == STEPS
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stage ")]
    assert said == [
        "stage 1 of 3: sequence length 64, RoPE base 10,000, 16 sequences a step, micro-batch 16, accumulation 1",
        "stage 2 of 3: sequence length 128, RoPE base 10,000 -> 50,000, 8 sequences a step, micro-batch 2, "
        "accumulation 4",
        "stage 3 of 3: sequence length 256, RoPE base 50,000 -> 500,000, 4 sequences a step, micro-batch 2, "
        "accumulation 2",
    ]
    fit(module(tiny_model_dir), tmp_path / "constant", CONSTANT)
    names = ("loss", "grad_norm", "lr", "flops", "tokens", "stage", "sequence_length")
    varied, constant = metrics(tmp_path / "varied", *names), metrics(tmp_path / "constant", *names)
    assert sorted(varied) == list(range(STEPS))
    for step in range(STEPS):
        assert varied[step] == pytest.approx(constant[step], rel=1e-5), step
    assert [varied[step][5:] for step in range(STEPS)] == [(1, 64)] * 3 + [(2, 128)] * 3 + [(3, 256)] * 3


def test_flops_in_the_metrics_are_those_of_the_documents(tiny_model_dir, tmp_path):
    lit = module(tiny_model_dir)
    fit(lit, tmp_path, VARIED)
    weights = sum(p.numel() for n, p in lit.model.named_parameters() if p.ndim == 2)  # tied: the embedding once
    total = 0
    for step, (rows_, length) in enumerate([(16, 64)] * 3 + [(8, 128)] * 3 + [(4, 256)] * 3):
        pairs = rows_ * sum(n * (n + 1) // 2 for n in (length // 3, length - length // 3))
        total += 6 * weights * 1024 + 12 * pairs * 2 * 2 * 32  # 2 layers of 2 heads of width 32
        assert metrics(tmp_path, "flops")[step] == pytest.approx((total,), rel=1e-6)  # logged in float32


def test_the_share_of_the_peak_is_logged_where_it_is_known(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_long.callbacks.throughput.peak_flops", lambda device: 1e12)
    fit(module(tiny_model_dir), tmp_path / "full", VARIED)
    assert not metrics_of(tmp_path / "full", "mfu")  # the peak is that of bfloat16
    trainer = trainer_of(tmp_path / "half", precision="bf16-mixed")
    trainer.fit(module(tiny_model_dir), StagedData(VARIED))
    assert metrics_of(tmp_path / "half", "mfu") == metrics_of(tmp_path / "half", "tflops_per_second")
    assert len(metrics_of(tmp_path / "half", "mfu")) == STEPS


@pytest.mark.parametrize("stop", [2, 4, 5, 7, 9])
def test_a_killed_run_goes_on_exactly_in_every_stage(tiny_model_dir, tmp_path, stop):
    names = ("loss", "grad_norm", "lr", "flops", "tokens", "stage")
    optimizer = {"rewarm_steps": 2}
    straight, resumed = (module(tiny_model_dir, optimizer=optimizer) for _ in range(2))
    fit(straight, tmp_path / "straight", VARIED, interval=8)
    fit(module(tiny_model_dir, optimizer=optimizer), tmp_path / "cut", VARIED, stop=stop, interval=8)
    _, watch = fit(resumed, tmp_path / "cut", VARIED, ckpt="last", interval=8)
    assert metrics(tmp_path / "cut", *names) == metrics(tmp_path / "straight", *names)
    assert min(watch.batches) == stop - 1  # the checkpoint of the last step was not written any more
    expected = {0: 1, 1: 1, 2: 1, 3: 4, 4: 4, 5: 4, 6: 2, 7: 2, 8: 2}
    assert watch.batches == {step: n for step, n in expected.items() if step >= stop - 1}
    assert watch.validated == [step for step in (2, 4, 6, 8) if step > stop - 1]
    for a, b in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("stages", [VARIED, [*VARIED[:1], (256, None, 1)]])
def test_a_finished_run_has_nothing_left_to_do(tiny_model_dir, tmp_path, stages):
    ropes = ROPES[-len(stages) :]
    first = module(tiny_model_dir, ropes)
    fit(first, tmp_path, stages, interval=8)
    again = module(tiny_model_dir, ropes)
    trainer, watch = fit(again, tmp_path, stages, ckpt="last", interval=8)
    assert not watch.batches
    assert trainer.global_step == STEPS
    assert sorted(metrics(tmp_path, "loss")) == list(range(STEPS))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_resume_may_change_the_micro_batches(tiny_model_dir, tmp_path):
    fit(module(tiny_model_dir), tmp_path / "straight", VARIED)
    fit(module(tiny_model_dir), tmp_path / "cut", CONSTANT, stop=5)
    _, watch = fit(module(tiny_model_dir), tmp_path / "cut", VARIED, ckpt="last")
    assert watch.batches == {4: 4, 5: 4, 6: 2, 7: 2, 8: 2}
    cut, straight = metrics(tmp_path / "cut", "loss"), metrics(tmp_path / "straight", "loss")
    assert [cut[s] for s in range(STEPS)] == [pytest.approx(straight[s], rel=1e-5) for s in range(STEPS)]


@pytest.mark.parametrize(("interval", "expected"), [(8, [2, 4, 6, 8]), (4, list(range(1, 10))), (0.34, [3, 6, 9])])
def test_validation_counts_steps_whatever_the_accumulation(tiny_model_dir, tmp_path, interval, expected):
    _, watch = fit(module(tiny_model_dir), tmp_path, VARIED, interval=interval)
    assert watch.validated == expected


def test_a_checkpoint_in_the_middle_has_the_positions_of_its_stage(tiny_model_dir, tmp_path):
    _, watch = fit(module(tiny_model_dir), tmp_path, VARIED)
    for step, base, length in [(1, 1e4, 64), (3, 1e4, 64), (4, 5e4, 128), (6, 5e4, 128), (7, 5e5, 256), (9, 5e5, 256)]:
        loaded = load_for_inference(str(tmp_path / "checkpoints" / f"step={step}.ckpt"))
        assert loaded.config.rope_parameters["rope_theta"] == base
        assert loaded.config.max_position_embeddings == length
        assert loaded.source["rope"]["context_length"] == length
        assert float(probe(use_packed_attention(loaded.model.train()))) == watch.probed[step], step


def test_validate_measures_a_checkpoint_of_any_stage(tiny_model_dir, tmp_path):
    lit = module(tiny_model_dir)
    fit(lit, tmp_path, VARIED, interval=4)
    expected = dict(metrics_of(tmp_path, "val_loss"))
    for step in (3, 4, 9):
        trainer = trainer_of(tmp_path / "other")
        path = tmp_path / "checkpoints" / f"step={step}.ckpt"
        found = trainer.validate(module(tiny_model_dir), StagedData(VARIED, validation=True), ckpt_path=str(path))
        assert found[0]["val_loss"] == pytest.approx(expected[step], rel=1e-6)


def test_from_scratch_and_with_another_method(tiny_config, tmp_path):
    """The paper's curriculum starts from random weights; YaRN also switches the scale of cos and sin."""
    lit = module(None, [NoScaling(), YaRN()], model_config=tiny_config)
    fit(lit, tmp_path, None, data=StagedData([(64, 0.5, 4), (256, None, 4)]))
    losses = [loss for (loss,) in metrics(tmp_path, "loss").values()]
    assert losses[-1] < losses[0] - 0.05
    factor = YaRN().attention_factor(lit.positions.native, 256)
    assert lit.model.model.rotary_emb.attention_scaling == pytest.approx(factor)
    assert lit.model.config.rope_parameters["rope_type"] == "yarn"


def test_the_rate_comes_back_at_each_stage(tiny_model_dir, tmp_path):
    fit(module(tiny_model_dir, optimizer={"rewarm_steps": 2}), tmp_path, VARIED)
    plain = [3e-3 * lr_factor(s, steps=STEPS, warmup_steps=2, final_lr_ratio=0.1) for s in range(STEPS)]
    halved = [rate / 2 if step in (3, 6) else rate for step, rate in enumerate(plain)]
    assert [rate for (rate,) in metrics(tmp_path, "lr").values()] == pytest.approx(halved)


@pytest.mark.parametrize(
    ("options", "stages", "message"),
    [
        ({"ropes": ROPES[:2]}, VARIED, "rope_schedule has 2 methods, .* the stages of the data are 3"),
        ({}, [(256, None, 2)], "rope_schedule has 3 methods, .* are none"),
        ({"ropes": [NoScaling(), YaRN(factor=1.5), ABF()]}, VARIED, "rope_schedule, stage 2: .* does not reach"),
        (
            {"ropes": None, "optimizer": {"rewarm_steps": 3}},
            [(256, None, 2)],
            "rewarm_steps is 3, but .* no later stage",
        ),
        ({}, [(64, 0.5, 2), (512, None, 2)], "beyond model.context_length 256"),
    ],
)
def test_schedules_that_do_not_fit(tiny_model_dir, tmp_path, monkeypatch, options, stages, message):
    lit = module(tiny_model_dir, **options)
    if "rewarm" not in message:
        monkeypatch.setattr("lit_long.module.build_model", lambda spec: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=message):
        fit(lit, tmp_path, stages)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rope": ABF()}, "rope_schedule .* and not both"), ({"rope_schedule": []}, "rope_schedule is empty")],
)
def test_ropes_that_do_not_fit(tiny_model_dir, options, message):
    with pytest.raises(UserError, match=message):
        module(tiny_model_dir, **options)


def test_validation_in_the_middle_of_a_step_is_refused(tiny_model_dir, tmp_path):
    with pytest.raises(UserError, match=r"val_check_interval is 6 .* 4 a step, .*: take 4 or 8"):
        fit(module(tiny_model_dir), tmp_path, VARIED, interval=6)


def test_other_positions_are_not_resumed(tiny_model_dir, tmp_path):
    fit(module(tiny_model_dir), tmp_path, VARIED, stop=6)
    other = module(tiny_model_dir, [NoScaling(), ABF(base=60_000.0), ABF()])
    with pytest.raises(UserError, match=r"trained with rope options = {'base': 50000.0}, this run asks for"):
        fit(other, tmp_path, VARIED, ckpt="last")


def test_models_whose_attention_depends_on_the_rope_are_refused():
    config = AutoConfig.for_model(
        "deepseek_v3", num_hidden_layers=2, hidden_size=64, num_attention_heads=4, qk_nope_head_dim=24,
        qk_rope_head_dim=8, v_head_dim=16, q_lora_rank=16, kv_lora_rank=16, intermediate_size=64, vocab_size=64,
        first_k_dense_replace=2, max_position_embeddings=64,
    )  # fmt: skip
    yarn = copy.deepcopy(config)
    yarn.rope_parameters = config.rope_parameters | {"rope_type": "yarn", "factor": 4.0, "mscale_all_dim": 1.0}
    check_stages([config, config])
    with pytest.raises(UserError, match=r"layers.0.self_attn.scaling depends on the rope method"):
        check_stages([config, yarn])


class SomebodysModule(pl.LightningModule):
    """Knows nothing of stages."""

    def __init__(self, folder):
        super().__init__()
        self.lm = use_packed_attention(AutoModelForCausalLM.from_pretrained(folder))
        self.losses = Counter()

    def training_step(self, batch, _):
        loss = next_token_loss(self.lm, batch).loss / batch["step_target_weight"]
        self.losses[self.global_step] += float(loss.detach())
        return loss * self.trainer.accumulate_grad_batches

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def test_somebody_elses_module_follows_the_stages(tiny_model_dir, tmp_path):
    losses = {}
    for name, stages in (("varied", VARIED), ("constant", CONSTANT)):
        lit = SomebodysModule(tiny_model_dir)
        _, watch = fit(lit, tmp_path / name, stages)
        losses[name] = lit.losses
    assert sorted(watch.batches) == list(range(STEPS))
    assert losses["varied"] == pytest.approx(losses["constant"], rel=1e-5)
    fit(SomebodysModule(tiny_model_dir), tmp_path / "cut", VARIED, stop=6)
    lit = SomebodysModule(tiny_model_dir)
    _, watch = fit(lit, tmp_path / "cut", VARIED, ckpt="last")
    assert watch.batches == {5: 4, 6: 2, 7: 2, 8: 2}
    assert dict(lit.losses) == {step: loss for step, loss in losses["varied"].items() if step >= 5}


def test_manual_optimization_is_refused(tiny_model_dir, tmp_path):
    lit = SomebodysModule(tiny_model_dir)
    lit.automatic_optimization = False
    with pytest.raises(UserError, match="manual optimization cannot follow"):
        trainer_of(tmp_path, clip=None).fit(lit, StagedData(VARIED))
