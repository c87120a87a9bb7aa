"""Checkpoints: what is in them, resuming from them, rebuilding a model from them."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_long.data import PretrainData
from lit_long.errors import UserError
from lit_long.loggers import JSONLLogger
from lit_long.model import LoraSettings, load_for_inference
from lit_long.module import LongContextModule
from lit_long.optim import OptimizerSettings
from lit_long.rope import ABF, Linear


def fit(
    corpus, model, folder, *, steps=6, stop=None, ckpt=None, micro_batch=2, seed=5, rate=1e-3, rope=None, lora=None
):
    """Train ``steps`` steps; ``stop`` ends the run earlier than its schedule, as a kill would."""
    pl.seed_everything(3)
    lit = LongContextModule(
        model=str(model),
        context_length=256,
        rope=rope or ABF(),
        lora=lora,
        optimizer=OptimizerSettings(learning_rate=rate, warmup_steps=2),
    )
    data = PretrainData(
        corpus=str(corpus), sequence_length=256, tokens_per_step=1024, micro_batch=micro_batch, seed=seed
    )

    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if stop is not None and trainer.global_step == stop:
                trainer.should_stop = True

    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=JSONLLogger(save_dir=str(folder)),
        log_every_n_steps=1,
        callbacks=[ModelCheckpoint(every_n_train_steps=2, save_last=True, enable_version_counter=False), Kill()],
        enable_progress_bar=False,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
    )
    trainer.fit(lit, data, ckpt_path=ckpt)
    return lit


def losses(folder):
    import json

    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: (row["loss"], row["grad_norm"], row["lr"]) for row in rows if "loss" in row}


@pytest.mark.parametrize(("stop", "micro_batch"), [(2, 2), (3, 2), (4, 1), (4, 4)])
def test_resumed_steps_equal_the_straight_run(corpus_dir, tiny_model_dir, tmp_path, stop, micro_batch):
    fit(corpus_dir, tiny_model_dir, tmp_path / "straight")
    fit(corpus_dir, tiny_model_dir, tmp_path / "cut", stop=stop)
    fit(corpus_dir, tiny_model_dir, tmp_path / "cut", ckpt="last", micro_batch=micro_batch)
    straight, cut = losses(tmp_path / "straight"), losses(tmp_path / "cut")
    assert sorted(cut) == sorted(straight) == list(range(6))
    if micro_batch == 2:
        assert cut == straight
    for step, values in straight.items():
        assert cut[step] == pytest.approx(values, rel=1e-5), step


def test_settings_of_the_run_win_over_those_of_the_checkpoint(corpus_dir, tiny_model_dir, tmp_path):
    fit(corpus_dir, tiny_model_dir, tmp_path, stop=2)
    fit(corpus_dir, tiny_model_dir, tmp_path, ckpt="last", rate=5e-4)
    rates = {step: values[2] for step, values in losses(tmp_path).items()}
    assert rates[1] == pytest.approx(1e-3)
    assert max(rates[step] for step in range(2, 6)) == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"seed": 6}, "another data order"), ({"rope": Linear()}, "trained with rope method = 'abf'")],
)
def test_another_run_is_not_resumed(corpus_dir, tiny_model_dir, tmp_path, change, message):
    fit(corpus_dir, tiny_model_dir, tmp_path, stop=2)
    with pytest.raises(UserError, match=message):
        fit(corpus_dir, tiny_model_dir, tmp_path, ckpt="last", **change)


def test_a_checkpoint_rebuilds_the_model(corpus_dir, tiny_model_dir, tmp_path):
    lit = fit(corpus_dir, tiny_model_dir, tmp_path, steps=2)
    loaded = load_for_inference(str(tmp_path / "checkpoints" / "last.ckpt"))
    ids = torch.arange(200).unsqueeze(0)
    lit.model.eval().set_attn_implementation("sdpa")
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, lit.model(ids).logits)
    assert loaded.native_length == 64
    assert loaded.config.rope_parameters["rope_theta"] == 500_000.0


def test_a_checkpoint_holds_plain_values_only(corpus_dir, tiny_model_dir, tmp_path):
    fit(corpus_dir, tiny_model_dir, tmp_path, steps=2)
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    training = state["lit_long"]["training"]
    assert training["tokens"] == 2 * 1024
    assert training["steps"] == 2
    assert "hyper_parameters" not in state


@pytest.mark.parametrize("everything", [True, False])
def test_lora_checkpoints_hold_what_was_trained(corpus_dir, tiny_model_dir, tmp_path, everything):
    lora = LoraSettings(r=4, alpha=8, train_embeddings=everything, train_norms=everything)
    straight = fit(corpus_dir, tiny_model_dir, tmp_path / "straight", steps=4, lora=lora)
    fit(corpus_dir, tiny_model_dir, tmp_path / "cut", steps=4, stop=2, lora=lora)
    fit(corpus_dir, tiny_model_dir, tmp_path / "cut", steps=4, ckpt="last", lora=lora)
    assert losses(tmp_path / "cut") == losses(tmp_path / "straight")
    path = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    names = set(torch.load(path, weights_only=True)["state_dict"])
    assert names == {f"model.{n}" for n, p in straight.model.named_parameters() if p.requires_grad}
    assert any("embed_tokens" in n for n in names) == everything
    loaded = load_for_inference(str(path))
    ids = torch.arange(200).unsqueeze(0)
    merged = straight.model.merge_and_unload().eval()
    merged.set_attn_implementation("sdpa")
    with torch.no_grad():
        assert torch.allclose(loaded.model(ids).logits, merged(ids).logits, atol=1e-5)
