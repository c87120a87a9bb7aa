"""Building the model to train: from a folder, from a config, from a GGUF file, with adapters; and every refusal."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.attention import PACKED
from lit_long.errors import UserError
from lit_long.model import Levers, LoraSettings, ModelSpec, build_model
from lit_long.model.build import load_pretrained, native_config
from lit_long.model.lora import add_lora, plain_lora_config
from lit_long.rope import ABF, NoScaling


def spec(model=None, model_config=None, **changes):
    options = {
        "revision": None,
        "rope": NoScaling(),
        "context_length": 64,
        "attention": "packed",
        "lora": None,
    }
    return ModelSpec(model=model, model_config=model_config, **options | changes)


@pytest.fixture
def broken(tiny_model_dir, tmp_path):
    """A copy of the tiny model to damage."""
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model_dir, folder)
    return folder


def test_pretrained_weights_and_scaled_positions(tiny_model_dir):
    built = build_model(spec(tiny_model_dir, rope=ABF(base=500_000.0), context_length=512))
    weights = load_file(f"{tiny_model_dir}/model.safetensors")
    state = built.model.state_dict()
    for name, tensor in weights.items():
        assert torch.equal(state[name], tensor)
    assert {p.dtype for p in built.model.parameters()} == {torch.float32}
    assert (built.native.native_length, built.native.base) == (64, 10_000.0)
    config = built.model.config
    assert config.max_position_embeddings == 512
    assert config.rope_parameters["rope_theta"] == 500_000.0
    assert config.use_cache is False
    assert config._attn_implementation == PACKED
    expected = 500_000.0 ** -(torch.arange(0, 32, 2).double() / 32)
    torch.testing.assert_close(built.model.model.rotary_emb.inv_freq.double(), expected, rtol=1e-6, atol=0)
    # the base itself is not touched by any of it
    assert native_config(spec(tiny_model_dir)).max_position_embeddings == 64


def test_from_config_alone(tiny_config):
    before = json.dumps(tiny_config)
    torch.manual_seed(1)
    first = build_model(spec(model_config=tiny_config)).model
    torch.manual_seed(1)
    second = build_model(spec(model_config=tiny_config, attention="sdpa")).model
    assert json.dumps(tiny_config) == before
    assert first.config.model_type == "llama"
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert first.lm_head.weight is first.model.embed_tokens.weight
    assert second.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give exactly one of model .* and model_config"),
        ({"model": "x", "model_config": {"model_type": "llama"}}, "give exactly one of model"),
        ({"model_config": {"vocab_size": 10}}, "model_config has no model_type; for example model_type: llama"),
        ({"model_config": {"model_type": "lama"}}, "model_config: Unrecognized model identifier: lama"),
        ({"model_config": {"model_type": "llama", "hidden_size": "wide"}}, "model_config: .*hidden_size"),
        ({"model": "/nothing/here"}, r"model '/nothing/here' cannot be read: .* Give a Hub id or a folder"),
        ({"model": "nobody/nothing"}, r"model 'nobody/nothing' cannot be read"),
    ],
)
def test_mistakes_in_the_choice_of_model(options, message):
    with pytest.raises(UserError, match=message) as caught:
        native_config(spec(**options))
    assert len(str(caught.value)) < 600


def test_a_folder_without_or_with_a_broken_config(broken):
    (broken / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be read: .*not a valid JSON"):
        native_config(spec(str(broken)))
    (broken / "config.json").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        native_config(spec(str(broken)))


@pytest.mark.parametrize("damage", ["none", "garbage", "pickle", "lacks tensors", "other shape"])
def test_weights_that_are_not_the_whole_model(broken, damage):
    """transformers warns about missing tensors and goes on with random ones; a training run must not."""
    file = broken / "model.safetensors"
    weights = load_file(file)
    file.unlink()
    message = "cannot be loaded"
    if damage == "garbage":
        file.write_bytes(b"not a tensor in sight")
    elif damage == "pickle":
        torch.save(weights, broken / "pytorch_model.bin")  # safetensors only
    elif damage == "lacks tensors":
        save_file({k: v for k, v in weights.items() if ".1." not in k}, file, metadata={"format": "pt"})
        message = "lacks 9 tensors of a llama model"
    elif damage == "other shape":
        weights["model.norm.weight"] = torch.ones(65)
        save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        build_model(spec(str(broken)))


def write_gguf(model, path):
    """The tiny Llama as a GGUF file of float32 tensors."""
    gguf = pytest.importorskip("gguf")
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name, parameter in model.named_parameters():
        tensor = parameter.detach().numpy()
        for heads, kind in ((config.num_attention_heads, "q_proj"), (config.num_key_value_heads, "k_proj")):
            if kind in name:  # GGUF keeps rotary pairs beside each other
                halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, -1)
                tensor = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, layer, part = stem.split(".", 3)
            stem = f"blk.{layer}.{names[part]}"
        else:
            stem = names[stem]
        writer.add_tensor(f"{stem}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf(tiny_model_dir, tmp_path):
    stock = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    path = tmp_path / "tiny.gguf"
    write_gguf(stock, path)
    built = build_model(spec(str(path), context_length=128, rope=ABF(base=20_000.0)))
    plain = load_pretrained(str(path)).eval()
    assert (built.native.native_length, built.native.base) == (64, 10_000.0)
    assert built.model.config.max_position_embeddings == 128
    ids = torch.arange(40)[None] * 7
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, stock(ids).logits, rtol=1e-5, atol=1e-6)
    plain.save_pretrained(tmp_path / "again")  # as any float32 model, not as a quantised one
    assert "quantization_config" not in json.loads((tmp_path / "again" / "config.json").read_text())
    with pytest.raises(UserError, match=r"other\.gguf' cannot be read"):
        native_config(spec(str(tmp_path / "other.gguf")))


def trained(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("train_embeddings", [True, False])
@pytest.mark.parametrize("train_norms", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_what_it_says(tiny_config, train_embeddings, train_norms, tied):
    config = AutoConfig.for_model(**tiny_config | {"tie_word_embeddings": tied})
    model = AutoModelForCausalLM.from_config(config)
    settings = LoraSettings(r=3, train_embeddings=train_embeddings, train_norms=train_norms)
    names = {name.replace("base_model.model.", "") for name in trained(add_lora(model, settings))}
    expected = {
        f"model.layers.{layer}.self_attn.{kind}_proj.lora_{part}.default.weight"
        for layer in (0, 1)
        for kind in "qkvo"
        for part in "AB"
    }
    if train_embeddings:
        expected |= {"model.embed_tokens.weight"} | (set() if tied else {"lm_head.weight"})
    if train_norms:
        expected |= {"model.norm.weight"}
        expected |= {
            f"model.layers.{i}.{kind}_layernorm.weight" for i in (0, 1) for kind in ("input", "post_attention")
        }
    assert names == expected
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_lora_finds_an_output_layer_of_another_name():
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    model = AutoModelForCausalLM.from_config(config)
    output = model.get_output_embeddings().weight
    add_lora(model, LoraSettings(target_modules=("query_key_value",)))
    assert output.requires_grad
    assert model.get_input_embeddings().weight.requires_grad


def test_lora_scale_and_rank(tiny_config):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**tiny_config))
    weight = model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    wrapped = add_lora(model, LoraSettings(r=4, alpha=12.0, target_modules=("q_proj",)))
    layer = wrapped.get_base_model().model.layers[0].self_attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((4, 64), (64, 4))
    nn.init.normal_(b)
    merged = wrapped.merge_and_unload().model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(merged, weight + 3.0 * b @ a)


def test_lora_on_a_built_model_trains_with_checkpointing(tiny_model_dir):
    settings = LoraSettings(r=2, train_embeddings=False, train_norms=False)
    levers = Levers(checkpointing="full", offload=False, tile_size=0)
    model = build_model(spec(tiny_model_dir, lora=settings, levers=levers)).model.train()
    model(torch.arange(20)[None], use_cache=False).logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == ("lora_" in name)
        if "lora_B" in name:
            assert parameter.grad.abs().max() > 0


def test_lora_mistakes(tiny_model_dir, tiny_config):
    with pytest.raises(UserError, match=r"no linear layer \['query'\]; it has \['down_proj', .*'v_proj'\]"):
        build_model(spec(tiny_model_dir, lora=LoraSettings(target_modules=("q_proj", "query"))))
    with pytest.raises(UserError, match=r"lora\.r is 0"):
        LoraSettings(r=0)
    with pytest.raises(UserError, match="lora needs a pretrained model"):
        native_config(spec(model_config=tiny_config, lora=LoraSettings()))


def test_lora_config_is_plain_enough_for_a_safe_checkpoint(tiny_model_dir, tmp_path):
    from peft import LoraConfig

    model = build_model(spec(tiny_model_dir, lora=LoraSettings(r=2, alpha=5.0, dropout=0.1))).model
    plain = plain_lora_config(model)
    torch.save(plain, tmp_path / "x.pt")
    assert torch.load(tmp_path / "x.pt", weights_only=True) == json.loads(json.dumps(plain)) == plain
    known = {k: v for k, v in plain.items() if k in LoraConfig.__dataclass_fields__}
    again = LoraConfig(**known)
    assert (again.r, again.lora_alpha, again.lora_dropout) == (2, 5.0, 0.1)
    assert again.target_modules == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert plain_lora_config(nn.Linear(1, 1)) is None


def test_model_files_fit_the_shared_fixture(tiny_model_dir):
    names = {p.name for p in Path(tiny_model_dir).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
