"""xPos-ABF: the paper's figure, the config it writes, what is refused, and a run from training to evaluation."""

import json
import subprocess
import sys
from pathlib import Path

import jsonargparse
import lightning.pytorch as pl
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from lit_long.attention import BACKENDS, attention_report, use_packed_attention
from lit_long.attention.backends import AttentionBackend
from lit_long.data import PretrainData
from lit_long.errors import UserError
from lit_long.evaluation.token_nll import position_nll
from lit_long.model import LoraSettings, load_for_inference
from lit_long.module import LongContextModule
from lit_long.rope import (
    ABF,
    Linear,
    NoScaling,
    RopeGeometry,
    RopeMismatchError,
    RopeScaling,
    XPosABF,
    scale_rope,
    verify_rope,
)
from lit_long.rope.analysis import all_ones_score

LLAMA2 = RopeGeometry(dim=128, base=10_000.0, native_length=4096)


@pytest.mark.parametrize(("scale_base", "mean"), [(512, 0.19), (512 * 8, 1.21), (512 * 50, 1.65)])
def test_the_score_at_far_distances(scale_base, mean):
    """All-ones scores at distance 28,000 to 32,000 of Llama 2's heads, as Figure 4 of Llama 2 Long shows them."""
    method = XPosABF(scale_base=scale_base)
    distances = torch.arange(28_000, 32_000)
    scores = all_ones_score(method.inv_freq(LLAMA2, 32_768), distances, method.decay(LLAMA2, 32_768))
    assert float(scores.mean()) == pytest.approx(mean, abs=5e-3)
    if scale_base == 512 * 50:  # "close to RoPE ABF but smoother"
        abf = all_ones_score(ABF().inv_freq(LLAMA2, 32_768), distances)
        assert float(scores.std()) == pytest.approx(0.31, abs=5e-3)
        assert float(abf.mean()) == pytest.approx(1.73, abs=5e-3)
        assert float(abf.std()) == pytest.approx(0.72, abs=5e-3)


def test_decay_is_the_public_constant():
    decay = XPosABF(scale_base=512).decay(LLAMA2, 32_768)
    assert decay.dtype == torch.float64
    assert (decay**512).tolist() == pytest.approx([(2 * j + 0.4 * 128) / (1.4 * 128) for j in range(64)], rel=1e-12)
    assert bool((ABF().decay(LLAMA2, 32_768) == 1).all())


@pytest.mark.parametrize(
    ("method", "geometry", "length", "message"),
    [
        (XPosABF(scale_base=400), LLAMA2, 32_768, "Use a scale_base of at least 463"),
        (XPosABF(scale_base=512), LLAMA2, 65_536, "Use a scale_base of at least 926"),
        (XPosABF(base=5_000), LLAMA2, 32_768, "below the model's own 10000"),
        (XPosABF(), RopeGeometry(dim=64, base=1e4, native_length=64, rope_type="linear"), 128, "already scaled"),
    ],
)
def test_refusals(method, geometry, length, message):
    with pytest.raises(UserError, match=message):
        method.validate(geometry, length)
    with pytest.raises(UserError, match=message):
        method.rope_parameters(geometry, length)


def tiny(**changes):
    sizes = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    return LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=256, **changes)


def test_the_config_comes_back_without_a_warning_and_is_proved(tmp_path, caplog):
    method, config = XPosABF(scale_base=100.0), tiny()
    native = RopeGeometry.from_config(config)
    model = use_packed_attention(AutoModelForCausalLM.from_config(scale_rope(config, method, 2048)))
    assert model.config.rope_parameters == {"rope_type": "xpos", "rope_theta": 5e5, "xpos_scale_base": 100.0}
    assert "xpos" in str(verify_rope(model, method, native, 2048))
    model.save_pretrained(tmp_path)
    again = use_packed_attention(AutoModelForCausalLM.from_pretrained(tmp_path))
    verify_rope(again, method, native, 2048)
    with pytest.raises(RopeMismatchError, match="differs from xPos"):  # the wrong scale base
        verify_rope(again, XPosABF(scale_base=110.0), native, 2048)
    # what it is now stays, also under another method that keeps the model's own
    reread = AutoConfig.from_pretrained(tmp_path)
    kept = use_packed_attention(AutoModelForCausalLM.from_config(scale_rope(reread, NoScaling(), 4096)))
    verify_rope(kept, NoScaling(), RopeGeometry.from_config(reread), 4096)
    with pytest.raises(UserError, match="already scaled"):
        scale_rope(reread, Linear(), 4096)
    assert not caplog.records


def test_the_default_shows_on_a_short_context():
    """A context that is nothing beside the scale base: attention without the scaling is still found out."""
    config = tiny()
    native = RopeGeometry.from_config(config)
    model = AutoModelForCausalLM.from_config(scale_rope(config, XPosABF(), 256))
    with pytest.raises(RopeMismatchError, match="does not scale queries and keys"):
        verify_rope(model, XPosABF(), native, 256)
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        with pytest.raises(RopeMismatchError, match="Train it with attention: packed"):
            verify_rope(model, XPosABF(), native, 256)
    verify_rope(use_packed_attention(model), XPosABF(), native, 256)


def test_transformers_alone_refuses_the_model(tmp_path):
    """Nobody gets a model without its decay by accident."""
    AutoModelForCausalLM.from_config(scale_rope(tiny(), XPosABF(), 2048)).save_pretrained(tmp_path)
    script = f"from transformers import AutoModelForCausalLM as A; A.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "xpos" in done.stderr.splitlines()[-1]


def train(corpus, folder, *, rope, resume=None, steps=2, model_config, precision="32-true", **options):
    module = LongContextModule(model_config=model_config, context_length=256, rope=rope, **options)
    data = PretrainData(corpus=corpus, sequence_length=256, tokens_per_step=512)
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(module, data, ckpt_path=resume)
    trainer.save_checkpoint(folder / "last.ckpt")
    return module


def test_a_run_its_checkpoint_and_what_is_refused_of_it(corpus_dir, tiny_config, tmp_path):
    rope, made = XPosABF(scale_base=300.0), {"corpus": corpus_dir, "folder": tmp_path, "model_config": tiny_config}
    module = train(rope=rope, **made)
    checkpoint = str(tmp_path / "last.ckpt")
    loaded = load_for_inference(checkpoint)
    assert loaded.source["rope"]["method"] == "xpos_abf"
    assert loaded.source["rope"]["options"] == {"base": 500_000.0, "scale_base": 300.0}
    ids = torch.arange(200).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, module.model.eval()(ids).logits)
        scored = position_nll(loaded.model, ids)
        own = torch.nn.functional.cross_entropy(loaded.model(ids[:, :-1]).logits[0], ids[0, 1:], reduction="none")
        assert torch.allclose(scored[0], own, atol=1e-5)
    train(rope=rope, resume=checkpoint, steps=3, **made)
    with pytest.raises(UserError, match="trained with rope options"):
        train(rope=XPosABF(scale_base=301.0), resume=checkpoint, steps=4, **made)
    with pytest.raises(UserError, match=r"model\.attention is 'sdpa'; set model\.attention: packed"):
        LongContextModule(model_config=tiny_config, context_length=256, rope=rope, attention="sdpa")
    with pytest.raises(UserError, match="rope method 'xpos_abf' scales queries"):  # a stage on the way, too
        LongContextModule(model_config=tiny_config, context_length=256, rope_schedule=[rope, ABF()], attention="sdpa")
    from lit_long_hub import export_checkpoint

    with pytest.raises(UserError, match=r"xPos .*range of float16"):
        export_checkpoint(checkpoint, tmp_path / "out", tokenizer="anything", dtype="float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_rope", {"rope_type": "default", "rope_theta": 1e4}),
        ("b_pi", {"rope_type": "linear", "rope_theta": 1e4, "factor": 8.0}),
        ("c_abf", {"rope_type": "default", "rope_theta": 5e5}),
        ("d_xpos_abf", {"rope_type": "xpos", "rope_theta": 5e5, "xpos_scale_base": 25_600.0}),
    ],
)
def test_the_four_arms_of_table_5(name, expected):
    """As a user composes them, over a recipe with another method; on Llama 2's geometry."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--model.rope", type=RopeScaling)
    recipe = {"model": {"rope": {"class_path": "lit_long.rope.YaRN", "init_args": {"beta_fast": 16.0}}}}
    arm = Path(__file__).parents[2] / f"recipes/ablations/positions/{name}.yaml"
    method = parser.instantiate_classes(
        parser.parse_args([f"--config={json.dumps(recipe)}", f"--config={arm}"])
    ).model.rope
    assert method.rope_parameters(LLAMA2, 32_768) == expected


def test_the_proof_goes_round_a_kernel_for_half_precision(corpus_dir, tiny_config, tmp_path, monkeypatch):
    """It is made in float32, which a kernel that was pinned for bf16-mixed does not take."""
    ran, real = [], BACKENDS["sdpa"]

    def run(states, *others):
        ran.append({t.dtype for t in states})
        return real.run(states, *others)

    def refuses(case):
        return None if case.dtype == torch.bfloat16 else "half precision only"

    monkeypatch.setitem(BACKENDS, "half", AttentionBackend("half", lambda: None, refuses, run))
    options = {"rope": XPosABF(scale_base=300.0), "attention_backend": "half"}
    module = train(corpus=corpus_dir, folder=tmp_path, model_config=tiny_config, precision="bf16-mixed", **options)
    assert all(dtypes == {torch.bfloat16} for dtypes in ran)
    assert set(attention_report(module.model).chosen.values()) == {"half"}
    module.model.set_attn_implementation("sdpa")
    with pytest.raises(RopeMismatchError, match="differs from xPos"):
        module.positions.prove(module.model)


def test_an_adapter_checkpoint(corpus_dir, tiny_model_dir, tmp_path):
    rope = XPosABF(scale_base=300.0)
    lora = LoraSettings(r=2)
    data = {"corpus": corpus_dir, "folder": tmp_path, "model_config": None, "model": tiny_model_dir}
    module = train(rope=rope, lora=lora, **data)
    loaded = load_for_inference(str(tmp_path / "last.ckpt"))
    ids = torch.arange(200).unsqueeze(0)
    with torch.no_grad():
        want = module.model.merge_and_unload().eval()(ids).logits
        assert torch.allclose(loaded.model(ids).logits, want, atol=1e-5)
