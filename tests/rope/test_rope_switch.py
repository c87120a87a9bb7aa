"""A switched model is the model that would have been built with those positions, bit for bit."""

import copy

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from lit_long.errors import UserError
from lit_long.rope import ABF, NTK, Linear, Llama3, NoScaling, RopeGeometry, YaRN, scale_rope, switch_rope

TINY = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ALL = [NoScaling(), ABF(base=2e6), Linear(), NTK(), YaRN(), YaRN(factor=16, attention_factor=1.25), Llama3()]


def build(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def logits(model, length):
    ids = (torch.arange(length) * 7 % 64).unsqueeze(0)
    with torch.no_grad():
        return model(ids, use_cache=False).logits


@pytest.mark.parametrize("architecture", ["Llama", "Qwen3", "GPTNeoX", "Cohere", "StableLm"])
def test_switched_equals_freshly_built(architecture):
    config = getattr(transformers, f"{architecture}Config")(**TINY)
    native = RopeGeometry.from_config(config)
    model = build(scale_rope(config, NoScaling(), 64))
    weights = [p.clone() for p in model.parameters()]
    lengths = [256, 128, 512, 64, 300, 256, 1024]
    for scaling, length in [*zip(ALL, lengths, strict=True), (NoScaling(), 64)]:
        inv_freq = model.get_decoder().rotary_emb.inv_freq
        report = switch_rope(model, scaling, native, length)
        assert report.method == scaling.name
        fresh = build(scale_rope(config, scaling, length))
        assert torch.equal(logits(model, length), logits(fresh, length)), scaling
        assert model.config.rope_parameters == fresh.config.rope_parameters
        assert model.config.max_position_embeddings == length
        live, new = model.get_decoder().rotary_emb, fresh.get_decoder().rotary_emb
        assert live.inv_freq is inv_freq  # in place: whoever holds the buffer sees the change
        assert torch.equal(live.original_inv_freq, new.original_inv_freq)
        assert {k: v for k, v in vars(live).items() if isinstance(v, int | float | str)} == {
            k: v for k, v in vars(new).items() if isinstance(v, int | float | str)
        }
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_inside_a_wrapper():
    from lit_long.model.lora import LoraSettings, add_lora

    config = transformers.LlamaConfig(**TINY)
    native = RopeGeometry.from_config(config)
    model = add_lora(build(copy.deepcopy(config)), LoraSettings())
    switch_rope(model, YaRN(), native, 256)
    assert torch.equal(logits(model, 256), logits(build(scale_rope(config, YaRN(), 256)), 256))


def test_a_rotary_class_that_wants_more_than_a_config():
    class Odd(torch.nn.Module):
        def __init__(self, config, dim):
            super().__init__()
            self.config, self.inv_freq = config, torch.nn.Buffer(torch.ones(dim))

    config = transformers.LlamaConfig(**TINY)
    model = build(config)
    model.model.rotary_emb = Odd(config, 16)
    with pytest.raises(UserError, match=r"cannot be built from the config alone .*export between them"):
        switch_rope(model, ABF(), RopeGeometry.from_config(config), 256)
