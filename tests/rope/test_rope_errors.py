"""Mistakes of a user's making and models that do not obey: every one is a message that says what to do."""

import subprocess
import sys

import pytest
import torch
import transformers
from torch import nn

from lit_long.errors import UserError
from lit_long.rope import (
    ABF,
    NTK,
    Linear,
    Llama3,
    RopeGeometry,
    RopeMismatchError,
    RopeScaling,
    YaRN,
    rope_method,
    rope_methods,
    scale_rope,
    verify_rope,
)

LLAMA2 = RopeGeometry(dim=128, base=10_000.0, native_length=4096)


def tiny_config(**changes):
    options = {
        "vocab_size": 32,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    return transformers.LlamaConfig(**options | {"max_position_embeddings": 256} | changes)


def tiny_model(config=None):
    return transformers.LlamaForCausalLM(config or scale_rope(tiny_config(), ABF(), 2048))


NATIVE = RopeGeometry.from_config(tiny_config())


def verify(model, scaling=None):
    return verify_rope(model, scaling or ABF(), NATIVE, 2048)


def test_registry_names_and_round_trip():
    assert list(rope_methods()) == ["none", "abf", "linear", "ntk", "yarn", "llama3", "xpos_abf"]
    for name, method in rope_methods().items():
        assert method.name == name
        assert method.__doc__
        assert rope_method(name, **method().options()).options() == method().options()
    yarn = rope_method("yarn", factor=4, attention_factor=1.5)
    assert yarn.options() == {"factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.5}
    assert rope_method("yarn", **yarn.options()).attention_factor(LLAMA2, 16384) == 1.5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rope_method("abff"), r"unknown rope method 'abff'; did you mean 'abf'\? There are: none, abf"),
        (lambda: rope_method("YaRN"), "did you mean 'yarn'"),
        (lambda: rope_method("xpos"), "There are: none, abf, linear, ntk, yarn, llama3"),
        (lambda: rope_method("abf", bases=1), r"no option 'bases'; did you mean 'base'\? It takes: base"),
        (lambda: rope_method("none", base=1), "It takes no options"),
        (lambda: scale_rope(tiny_config(), "pi", 512), "unknown rope method 'pi'"),
        (lambda: ABF(base=1.0), "base must be a number above 1, got 1.0"),
        (lambda: ABF(base="many"), "base must be a number above 1, got 'many'"),
        (lambda: ABF(base=float("nan")), "base must be a number above 1, got nan"),
        (lambda: Linear(factor=0.5), "factor must be a number of at least 1, got 0.5"),
        (lambda: NTK(factor=0.99), "factor must be a number of at least 1"),
        (lambda: YaRN(factor=True), "factor must be a number of at least 1, got True"),
        (lambda: YaRN(beta_fast=1.0, beta_slow=2.0), "beta_fast must be a number above 2, got 1.0"),
        (lambda: YaRN(beta_slow=0.0), "beta_slow must be a number above 0"),
        (lambda: YaRN(attention_factor=-1.0), "attention_factor must be a number above 0"),
        (lambda: Llama3(low_freq_factor=4.0), "high_freq_factor must be a number above 4, got 4.0"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize("method", rope_methods().values())
def test_no_method_shortens_the_context(method):
    call = method()
    for ask in (call.inv_freq, call.attention_factor, call.rope_parameters):
        with pytest.raises(UserError, match="context_length 2048 is shorter than the model's native 4096"):
            ask(LLAMA2, 2048)
    with pytest.raises(UserError, match=r"whole number of tokens, got 8192\.0"):
        call.inv_freq(LLAMA2, 8192.0)


@pytest.mark.parametrize("method", [Linear, NTK, YaRN, Llama3])
def test_factor_must_reach_the_target_and_the_model_must_be_unscaled(method):
    with pytest.raises(UserError, match=r"factor 4 x native length 4096 = 16384 does not reach context_length 32768"):
        method(factor=4).inv_freq(LLAMA2, 32768)
    assert method(factor=32768 / 4096).rope_parameters(LLAMA2, 32768)
    scaled = RopeGeometry.from_config(
        tiny_config(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    )
    with pytest.raises(UserError, match=r"already scaled \(rope_type 'linear'\): use 'abf'"):
        method().rope_parameters(scaled, 2048)


def test_abf_does_not_lower_the_base():
    smollm3 = RopeGeometry(dim=128, base=2_000_000.0, native_length=32768)
    with pytest.raises(UserError, match=r"base 500000 is below the model's own 2e\+06.*mistake.*1e\+08"):
        ABF().rope_parameters(smollm3, 65536)


def test_ntk_needs_more_than_two_dimensions():
    with pytest.raises(UserError, match="more than 2 rotary dimensions"):
        NTK().inv_freq(RopeGeometry(dim=2, base=1e4, native_length=64), 128)


@pytest.mark.parametrize("change", [{"dim": 0}, {"base": 1.0}, {"native_length": 0}])
def test_impossible_geometry(change):
    with pytest.raises(UserError, match="base above 1"):
        RopeGeometry(**{"dim": 64, "base": 1e4, "native_length": 64} | change)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (transformers.GPT2Config(), "'gpt2' has no rotary positions"),
        (transformers.BloomConfig(), "'bloom' has no rotary positions"),
        (transformers.MptConfig(), "'mpt' has no rotary positions"),
        (transformers.FalconConfig(alibi=True), "'falcon' has no rotary positions"),
        (transformers.GPTJConfig(), "'gptj' has no rotary positions that its config controls"),
        (transformers.Gemma3TextConfig(), "'gemma3_text' has one rope for each layer type"),
        (transformers.Gemma3Config(), "pass config.get_text_config"),
        (tiny_config(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}), "'dynamic' of model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_that_cannot_be_scaled(config, message):
    with pytest.raises(UserError, match=message):
        scale_rope(config, "abf", 10**6)


def test_config_class_that_rewrites_the_scaling_is_refused():
    """Phi-3 turns yarn into longrope, which has other frequencies."""
    with pytest.raises(UserError, match=r"'phi3' .* 'yarn'.*use 'abf'"):
        scale_rope(transformers.Phi3Config(), YaRN(), 16384)
    assert scale_rope(transformers.Phi3Config(), ABF(), 16384).rope_parameters["rope_theta"] == 500_000.0


def test_missing_keys_of_an_existing_scaling():
    geometry = RopeGeometry(dim=64, base=1e4, native_length=64, rope_type="llama3")
    with pytest.raises(UserError, match="lacks 'factor'"):
        geometry.inv_freq()


# -- live models ------------------------------------------------------------------------------------------------------


def test_model_built_before_scaling_is_caught():
    model = tiny_model(tiny_config())
    model.config.rope_parameters = scale_rope(tiny_config(), ABF(), 2048).rope_parameters
    with pytest.raises(RopeMismatchError, match=r"model\.rotary_emb\.inv_freq\[7\] is 0\.000316.*expected .*Build the"):
        verify(model)


def test_rotary_module_that_ignores_the_config_is_caught(monkeypatch):
    from transformers.models.llama import modeling_llama

    class Deaf(modeling_llama.LlamaRotaryEmbedding):
        def __init__(self, config):
            super().__init__(tiny_config())

    monkeypatch.setattr(modeling_llama, "LlamaRotaryEmbedding", Deaf)
    with pytest.raises(RopeMismatchError, match="this model class ignores rope_parameters"):
        verify(tiny_model())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_buffers_are_caught(dtype):
    with pytest.raises(RopeMismatchError, match=rf"is {dtype}.*bf16-mixed or 32-true"):
        verify(tiny_model().to(dtype))


def test_buffer_that_went_through_bfloat16_is_caught():
    with pytest.raises(RopeMismatchError, match="relative error"):
        verify(tiny_model().to(torch.bfloat16).float())


def test_meta_garbage_and_wrong_width_are_caught():
    with torch.device("meta"):
        on_meta = tiny_model()
    with pytest.raises(RopeMismatchError, match="meta device"):
        verify(on_meta)
    garbage = tiny_model()
    garbage.model.rotary_emb.inv_freq[3] = torch.nan
    with pytest.raises(RopeMismatchError, match=r"inv_freq\[3\] is nan"):
        verify(garbage)
    wide = tiny_model(scale_rope(tiny_config(head_dim=32), ABF(), 2048))
    with pytest.raises(RopeMismatchError, match=r"has shape \[16\], expected \[8\]"):
        verify(wide)


def test_wrong_attention_scale_is_caught():
    model = tiny_model(scale_rope(tiny_config(), YaRN(), 2048))
    model.model.rotary_emb.attention_scaling = 1.0
    with pytest.raises(RopeMismatchError, match=r"attention_scaling is 1, rope method 'yarn' needs 1\.207944"):
        verify(model, YaRN())


def stretched(forward, x, position_ids):
    return forward(x, position_ids * 2)


def clamped(forward, x, position_ids):
    return forward(x, position_ids.clamp(max=255))


def half(forward, x, position_ids):
    return tuple(part.bfloat16() for part in forward(x, position_ids))


def unscaled(forward, x, position_ids):
    return tuple(part / 1.2 for part in forward(x, position_ids))


@pytest.mark.parametrize("fault", [stretched, clamped, half, unscaled])
def test_forward_that_does_not_follow_its_frequencies_is_caught(fault):
    model = tiny_model()
    forward = model.model.rotary_emb.forward
    model.model.rotary_emb.forward = lambda x, position_ids: fault(forward, x, position_ids)
    with pytest.raises(RopeMismatchError, match=r"model\.rotary_emb computes a wrong (cos|sin) at position \d+"):
        verify(model)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda sequence_length: None, "does not take"),
        (lambda x, position_ids: None, "returns NoneType, not cos and sin"),
        (lambda x, position_ids: (torch.ones(1, position_ids.shape[1], 3),) * 2, "gives 3 cos values a position"),
    ],
)
def test_forward_of_another_kind_is_refused(forward, message):
    model = tiny_model()
    model.model.rotary_emb.forward = forward
    with pytest.raises(RopeMismatchError, match=message):
        verify(model)


def test_model_without_rotary_module():
    with pytest.raises(RopeMismatchError, match="Linear has no module with an inv_freq buffer"):
        verify(nn.Linear(2, 2))


# -- command line and import ------------------------------------------------------------------------------------------


def test_jsonargparse_selects_methods_by_class_path():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rope", type=RopeScaling)
    parsed = parser.parse_object({"rope": {"class_path": "lit_long.rope.ABF", "init_args": {"base": 5e6}}})
    rope = parser.instantiate_classes(parsed).rope
    assert isinstance(rope, ABF)
    assert rope.options() == {"base": 5e6}
    assert isinstance(
        parser.instantiate_classes(parser.parse_args(["--rope", "lit_long.rope.YaRN", "--rope.factor", "4"])).rope, YaRN
    )


def test_import_needs_no_transformers():
    code = "import sys, lit_long.rope; assert 'torch' in sys.modules; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
