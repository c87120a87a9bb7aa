"""Every method against stock transformers: configs, live buffers, cos/sin, files, wrappers."""

import math

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lit_long.attention import use_packed_attention
from lit_long.rope import (
    ABF,
    NTK,
    Linear,
    Llama3,
    NoScaling,
    RopeGeometry,
    YaRN,
    expected_inv_freq,
    rope_methods,
    scale_rope,
    verify_rope,
)

TINY = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONTEXT = 2048
SCALINGS = [
    NoScaling(),
    ABF(),
    Linear(),
    NTK(),
    YaRN(),
    YaRN(factor=16, beta_fast=16.0, beta_slow=2.0, attention_factor=1.25),
    Llama3(),
    Llama3(factor=32, low_freq_factor=1.5, high_freq_factor=6.0),
]


def tiny(architecture="Llama", **changes):
    if architecture == "Falcon":
        changes = {"num_kv_heads": 2, "new_decoder_architecture": True} | changes
    return getattr(transformers, f"{architecture}Config")(**TINY | changes)


def build(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def rotary(model):
    return model.get_decoder().rotary_emb


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "Mistral"])
@pytest.mark.parametrize("scaling", SCALINGS, ids=repr)
def test_method_equals_stock_transformers(architecture, scaling):
    config = tiny(architecture)
    native = RopeGeometry.from_config(config)
    scaled = scale_rope(config, scaling, CONTEXT)
    module = rotary(build(scaled))
    expected = scaling.inv_freq(native, CONTEXT)
    assert torch.allclose(module.inv_freq.double(), expected, rtol=5e-6, atol=0)
    assert module.attention_scaling == pytest.approx(scaling.attention_factor(native, CONTEXT), rel=1e-12)
    if scaled.rope_parameters["rope_type"] != "default":
        stock, factor = ROPE_INIT_FUNCTIONS[scaled.rope_parameters["rope_type"]](scaled, "cpu")
        assert torch.equal(stock, module.inv_freq)
        assert factor == pytest.approx(scaling.attention_factor(native, CONTEXT), rel=1e-12)
    assert scaled.max_position_embeddings == CONTEXT
    assert config.max_position_embeddings == 256
    assert config.rope_parameters == tiny(architecture).rope_parameters


@pytest.mark.parametrize(
    "architecture",
    ["Llama", "Qwen3", "Mistral", "StableLm", "Phi", "Glm", "GPTNeoX", "Cohere", "Gemma", "Falcon", "Olmo2", "SmolLM3"],
)
@pytest.mark.parametrize("scaling", [ABF(), YaRN(), Llama3()], ids=repr)
def test_verify_accepts_stock_models(architecture, scaling):
    config = tiny(architecture, head_dim=32) if architecture in ("Gemma", "Glm") else tiny(architecture)
    if architecture == "Cohere":
        scaling = ABF(base=1e6) if isinstance(scaling, ABF) else scaling  # Cohere's own base is 500,000
    if architecture == "SmolLM3":
        scaling = ABF(base=1e8) if isinstance(scaling, ABF) else scaling
    native = RopeGeometry.from_config(config)
    report = verify_rope(build(scale_rope(config, scaling, CONTEXT)), scaling, native, CONTEXT)
    assert report.module_count == 1
    assert 0 <= report.max_relative_error <= report.tolerance < 2e-4
    assert report.max_rotation_error < CONTEXT * 2**-23


@pytest.mark.parametrize(("architecture", "dim"), [("StableLm", 8), ("Phi", 16), ("GPTNeoX", 8)])
def test_partial_rotary_dimensions_are_kept(architecture, dim):
    config = tiny(architecture)
    native = RopeGeometry.from_config(config)
    assert native.dim == dim
    for scaling in SCALINGS:
        parameters = scale_rope(config, scaling, CONTEXT).rope_parameters
        assert parameters["partial_rotary_factor"] == dim / 32, scaling


def test_verify_reads_complex_and_single_width_rotations():
    for architecture in ("DeepseekV2", "GptOss"):
        config = tiny(architecture, num_local_experts=2, num_experts_per_tok=1) if architecture == "GptOss" else None
        config = config or tiny(architecture, qk_rope_head_dim=16, n_routed_experts=2, num_experts_per_tok=1)
        native = RopeGeometry.from_config(config)
        scaling = ABF(base=1e6)
        length = max(CONTEXT, native.native_length)
        assert verify_rope(build(scale_rope(config, scaling, length)), scaling, native, length).module_count == 1


def test_long_context_rotation_is_exact_to_float32():
    config = tiny(max_position_embeddings=4096)
    native = RopeGeometry.from_config(config)
    report = verify_rope(build(scale_rope(config, "abf", 131_072)), ABF(), native, 131_072)
    assert report.max_rotation_error < 131_072 * 2**-23
    assert str(report).startswith("rope abf: 1 rotary module agrees with the formula (inv_freq within ")
    assert str(report).endswith(")")
    assert "cos/sin to position 131071" in str(report)
    assert "\n" not in str(report)


def test_logits_are_those_of_a_model_with_rotations_from_the_formula():
    """The whole path: a stock model from the scaled config against one whose cos/sin we compute in float64."""
    config, ids = tiny(), torch.arange(3, 63)[None]
    native = RopeGeometry.from_config(config)
    plain_logits = build(config)(ids).logits
    for scaling in (ABF(), Linear(), NTK(), YaRN(), Llama3()):
        stock = build(scale_rope(config, scaling, CONTEXT))(ids).logits
        patched = build(config)
        angles = torch.arange(60, dtype=torch.float64)[:, None] * scaling.inv_freq(native, CONTEXT)
        table = torch.cat((angles, angles), -1)[None]
        factor = scaling.attention_factor(native, CONTEXT)
        rotation = ((table.cos() * factor).float(), (table.sin() * factor).float())
        rotary(patched).forward = lambda x, position_ids, rotation=rotation: rotation
        assert torch.allclose(stock, patched(ids).logits, atol=2e-6), scaling
        assert not torch.allclose(stock, plain_logits, atol=1e-5), scaling


LLAMA31 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}


def test_abf_on_llama3_changes_only_the_base():
    config = tiny(max_position_embeddings=2048, rope_parameters=dict(LLAMA31))
    native = RopeGeometry.from_config(config)
    assert (native.rope_type, native.native_length, native.base) == ("llama3", 2048, 500_000.0)
    scaled = scale_rope(config, ABF(base=5e6), 8192)
    assert scaled.rope_parameters == LLAMA31 | {"rope_theta": 5e6}
    stock, _ = ROPE_INIT_FUNCTIONS["llama3"](scaled, "cpu")
    assert torch.allclose(stock.double(), ABF(base=5e6).inv_freq(native, 8192), rtol=2e-5, atol=0)
    assert verify_rope(build(scaled), ABF(base=5e6), native, 8192).module_count == 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "default", "rope_theta": 1e5},
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 256},
        {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 256}
        | {"mscale": 1.0, "mscale_all_dim": 0.5, "beta_fast": 16.0, "truncate": False},
        LLAMA31,
    ],
)
def test_a_rope_that_the_model_already_has_is_known_and_kept(parameters):
    config = tiny(max_position_embeddings=2048, rope_parameters=dict(parameters))
    native = RopeGeometry.from_config(config)
    module = rotary(build(config))
    assert torch.allclose(expected_inv_freq(config), module.inv_freq.double(), rtol=2e-5, atol=0)
    assert native.attention_factor() == pytest.approx(module.attention_scaling, rel=1e-12)
    scaled = scale_rope(config, NoScaling(), 8192)
    assert scaled.rope_parameters == parameters
    assert verify_rope(build(scaled), NoScaling(), native, 8192).max_relative_error < 2e-5


def test_legacy_keys_are_read_as_transformers_standardises_them():
    config = tiny(rope_theta=123_456.0, rope_scaling={"type": "linear", "factor": 2.0})
    native = RopeGeometry.from_config(config)
    assert (native.base, native.rope_type) == (123_456.0, "linear")
    assert torch.allclose(native.inv_freq(), rotary(build(config)).inv_freq.double(), rtol=5e-6, atol=0)
    assert "type" not in scale_rope(config, ABF(), 1024).rope_parameters


@pytest.mark.parametrize("name", rope_methods())
def test_saved_model_keeps_its_positions(tmp_path, name):
    scaling = rope_methods()[name]()
    config = tiny()
    native = RopeGeometry.from_config(config)
    model = build(scale_rope(config, scaling, CONTEXT))
    model.save_pretrained(tmp_path)
    again = use_packed_attention(AutoModelForCausalLM.from_pretrained(tmp_path))  # xPos is in the attention
    assert torch.equal(rotary(again).inv_freq, rotary(model).inv_freq)
    assert verify_rope(again, scaling, native, CONTEXT).module_count == 1
    reread = AutoConfig.from_pretrained(tmp_path)
    assert reread.max_position_embeddings == CONTEXT
    assert torch.allclose(expected_inv_freq(reread), scaling.inv_freq(native, CONTEXT), rtol=1e-13, atol=0)


def test_yarn_spells_out_the_native_length():
    """Left out, transformers takes the raised length and silently gets other frequencies (hub trap)."""
    scaled = scale_rope(tiny(), YaRN(), CONTEXT)
    assert scaled.rope_parameters["original_max_position_embeddings"] == 256
    assert scaled.rope_parameters["rope_theta"] == 10_000.0
    implicit = {k: v for k, v in scaled.rope_parameters.items() if k != "original_max_position_embeddings"}
    trapped = tiny(max_position_embeddings=CONTEXT, rope_parameters=implicit)
    assert not torch.allclose(ROPE_INIT_FUNCTIONS["yarn"](trapped, "cpu")[0], rotary(build(scaled)).inv_freq, rtol=1e-2)


def test_verify_sees_through_wrappers():
    from peft import LoraConfig, get_peft_model

    config, scaling = tiny(), ABF()
    native = RopeGeometry.from_config(config)
    model = get_peft_model(
        build(scale_rope(config, scaling, CONTEXT)),
        LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM"),
    )
    assert verify_rope(model, scaling, native, CONTEXT).module_count == 1
    both = torch.nn.ModuleList([model, build(scale_rope(config, scaling, CONTEXT))])
    assert verify_rope(both, scaling, native, CONTEXT).module_count == 2


def test_ntk_exponent_uses_rotary_dimensions():
    config = tiny("Phi")  # head 32, rotary 16
    theta = scale_rope(config, NTK(), CONTEXT).rope_parameters["rope_theta"]
    assert math.log(theta / 10_000, 8) == pytest.approx(16 / 14)


@pytest.mark.parametrize("native_length", [2, 4, 16])
def test_yarn_where_its_bounds_collapse(native_length):
    """Native lengths so short that no frequency turns once: the released code's corner cases are ours, too."""
    config = tiny(max_position_embeddings=native_length)
    scaled = scale_rope(config, YaRN(), 8 * native_length)
    stock, _ = ROPE_INIT_FUNCTIONS["yarn"](scaled, "cpu")
    ours = YaRN().inv_freq(RopeGeometry.from_config(config), 8 * native_length)
    assert torch.allclose(stock.double(), ours, rtol=5e-6, atol=0)


def test_a_wrapper_that_forwards_lookups_is_not_counted_twice():
    class Forwarding(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

    config = tiny()
    wrapped = Forwarding(rotary(build(scale_rope(config, ABF(), CONTEXT))))
    assert wrapped.inv_freq is wrapped.inner.inv_freq
    assert verify_rope(wrapped, ABF(), RopeGeometry.from_config(config), CONTEXT).module_count == 1
