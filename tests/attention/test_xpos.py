"""xPos-ABF: the formula in float64, packed documents, training, and where it cannot be used."""

import pytest
import torch
from torch import nn

from lit_long.attention import packed_attention, use_packed_attention
from lit_long.attention.boundaries import boundaries
from lit_long.attention.xpos import apply_xpos, require_xpos_model
from lit_long.entry import main
from lit_long.errors import UserError
from lit_long.rope import ABF, RopeGeometry, XPosABF, rope_method, scale_rope, switch_rope
from lit_long.rope.analysis import all_ones_score
from lit_long.rope.methods.xpos import xpos_log_zeta
from tests.attention.test_packed_attention import build
from tests.cli.test_fit import recipe, rows  # noqa: F401 - fixtures

D = 16
NATIVE = RopeGeometry(dim=D, base=1e4, native_length=64)


class Layer(nn.Module):
    def __init__(self, scale_base=20.0):
        super().__init__()
        self.config = type("Config", (), {"lit_long_xpos": {"scale_base": scale_base}})()


def states(tokens, dtype=torch.float64):
    torch.manual_seed(0)
    return tuple(torch.randn(1, tokens, heads, D, dtype=dtype) for heads in (4, 2, 2))


def test_scores_are_the_formula():
    """sum over pairs of (q_j k_j + q_j' k_j') zeta_j^((m - n) / scale_base), for states that are rotated already."""
    query, key, value = states(50)
    bounds = boundaries(None, torch.arange(50)[None], 1, 50)
    scaled_query, scaled_key, same = apply_xpos(Layer(), (query, key, value), bounds)
    assert same is value
    zeta = (2 * torch.arange(D // 2, dtype=torch.float64) + 0.4 * D) / (1.4 * D)
    for m, n in ((0, 0), (49, 0), (30, 29), (12, 3)):
        terms = query[0, m, 1, : D // 2] * key[0, n, 0, : D // 2] + query[0, m, 1, D // 2 :] * key[0, n, 0, D // 2 :]
        expected = (terms * zeta ** ((m - n) / 20.0)).sum()
        torch.testing.assert_close(scaled_query[0, m, 1] @ scaled_key[0, n, 0], expected, rtol=1e-12, atol=1e-12)


def test_each_document_counts_its_own_positions():
    query, key, value = states(30)
    cuts = torch.tensor([0, 13, 14, 30])
    packed, _ = packed_attention(
        Layer(), *(t.transpose(1, 2) for t in (query, key, value)), cu_seq_lens_q=cuts, max_length_q=16
    )
    for start, stop in ((0, 13), (13, 14), (14, 30)):
        alone, _ = packed_attention(
            Layer(), *(t[:, start:stop].transpose(1, 2) for t in (query, key, value)),
            position_ids=torch.arange(stop - start)[None],
        )  # fmt: skip
        torch.testing.assert_close(packed[:, start:stop], alone, rtol=1e-12, atol=1e-12)


def test_the_decay_is_that_of_the_papers_figure():
    """paper-facts: all-ones score at distance 28,000 to 32,000, d = 128, base 500,000, by scale base."""
    geometry = RopeGeometry(dim=128, base=1e4, native_length=4096)
    inv_freq = ABF().inv_freq(geometry, 32_768)
    distance = torch.arange(28_000, 32_001, dtype=torch.float64)
    assert float(all_ones_score(inv_freq, distance).mean()) == pytest.approx(1.73, abs=0.005)
    for scale_base, mean in ((512, 0.19), (512 * 8, 1.21), (512 * 50, 1.65)):
        decay = torch.exp(xpos_log_zeta(128)[None] * distance[:, None] / scale_base)
        score = (2 * torch.cos(distance[:, None] * inv_freq) * decay).sum(1) / 128**0.5
        assert float(score.mean()) == pytest.approx(mean, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_long_documents_do_not_overflow(dtype):
    scaling = XPosABF(scale_base=20.0)
    length = 2048
    scaling.validate(NATIVE, length)
    query, key, value = states(length, dtype)
    bounds = boundaries(None, torch.arange(length)[None], 1, length)
    q, k, _ = apply_xpos(Layer(20.0), (query, key, value), bounds)
    assert torch.isfinite(q).all()
    assert torch.isfinite(k).all()
    with pytest.raises(UserError, match=r"overflow at context_length 1048576; give at least \d+") as found:
        scaling.validate(NATIVE, 1 << 20)
    least = int(str(found.value).split("at least ")[1].rstrip("."))
    XPosABF(scale_base=least).validate(NATIVE, 1 << 20)
    with pytest.raises(UserError, match="overflow"):
        XPosABF(scale_base=least - 1).validate(NATIVE, 1 << 20)


def test_it_is_in_the_config_and_nothing_else_is():
    config = build("llama").config
    scaled, plain = scale_rope(config, XPosABF(scale_base=700), 512), scale_rope(config, ABF(), 512)
    assert scaled.lit_long_xpos == {"scale_base": 700.0}
    assert type(scaled).from_dict(scaled.to_dict()).lit_long_xpos == {"scale_base": 700.0}
    different = {k: v for k, v in scaled.to_dict().items() if plain.to_dict().get(k) != v}
    assert different == {"lit_long_xpos": {"scale_base": 700.0}}


def test_a_stage_can_switch_it_on_and_off():
    model = use_packed_attention(build("llama", dtype=torch.float32))
    native = RopeGeometry.from_config(model.config)
    ids = torch.arange(200)[None]
    with torch.no_grad():
        switch_rope(model, ABF(), native, 512)
        plain = model(ids, use_cache=False).logits
        switch_rope(model, XPosABF(scale_base=16), native, 512)
        decayed = model(ids, use_cache=False).logits
        switch_rope(model, ABF(), native, 512)
        again = model(ids, use_cache=False).logits
    assert not torch.allclose(plain, decayed, atol=1e-3)
    assert torch.equal(plain, again)


def test_training_evaluating_and_no_export(recipe, tmp_path, capsys):  # noqa: F811
    from lit_long.model import load_for_inference

    losses = {}
    for name, options in (("abf", {}), ("xpos_abf", {"scale_base": 32})):
        method = type(rope_method(name)).__name__
        words = [f"--model.rope.{key}={value}" for key, value in options.items()]
        folder = tmp_path / name
        arguments = ["--model.rope", f"lit_long.rope.{method}", *words, "--trainer.logger.save_dir", str(folder)]
        assert main(["fit", *recipe, *arguments, "--trainer.max_steps", "2"]) == 0
        losses[name] = rows(folder)[0][0]
    assert losses["abf"] != pytest.approx(losses["xpos_abf"], abs=1e-6)
    last = tmp_path / "xpos_abf" / "checkpoints" / "last.ckpt"
    loaded = load_for_inference(str(last))
    assert loaded.model.config._attn_implementation == "lit_long_packed"  # stock attention would leave it out
    assert loaded.model.config.lit_long_xpos == {"scale_base": 32.0}
    assert main(["export", str(last), "--output", str(tmp_path / "release")]) == 2
    assert "positions of method 'xpos_abf' cannot be exported" in capsys.readouterr().err
    assert not (tmp_path / "release").exists()


def test_only_where_it_is_computed(recipe, capsys):  # noqa: F811
    options = ["--model.rope", "lit_long.rope.XPosABF", "--model.attention", "sdpa"]
    assert main(["fit", *recipe, *options]) == 2
    assert "set model.attention: packed" in capsys.readouterr().err
    for name, changes in (("gpt_neox", {"num_key_value_heads": None, "head_dim": None}), ("phi3", {"pad_token_id": 0})):
        with pytest.raises(UserError, match=f"is not known to fit '{name}'"):
            require_xpos_model(build(name, **changes).config)


def test_the_four_arms_are_overlays(capsys):
    import yaml

    from tests.cli.test_fit import ROOT

    found = {}
    for arm in ("a_rope", "b_pi", "c_abf", "d_xpos_abf"):
        overlay = ROOT / f"recipes/ablations/positions/{arm}.yaml"
        configs = ["--config", str(ROOT / "recipes/quickstart.yaml"), "--config", str(overlay)]
        assert main(["fit", *configs, "--print_config"]) == 0
        found[arm] = yaml.safe_load(capsys.readouterr().out)["model"]["rope"]
    assert [rope["class_path"].rpartition(".")[2] for rope in found.values()] == [
        "NoScaling", "Linear", "ABF", "XPosABF",
    ]  # fmt: skip
    assert found["d_xpos_abf"]["init_args"] == {"base": 500_000.0, "scale_base": 4096.0}
