"""Streaming safetensors: every tensor bit for bit, tied ones once, bad ones by name."""

import json

import pytest
import torch
from hub_checkpoints import llama
from safetensors import safe_open
from safetensors.torch import load_file

from lit_long.errors import UserError
from lit_long_hub.architecture import match_names, read_architecture
from lit_long_hub.convert import plan_weights, release_dtype, write_weights
from lit_long_hub.weights import SafetensorsWeights, StoredWeights, safetensors_of


def write(tensors, folder, *, dtype=torch.float32, size="5GB"):
    source = StoredWeights(tensors)
    plan = plan_weights(source.specs(), {name: name for name in tensors}, dtype=dtype, max_shard_size=size)
    return write_weights(plan, source, folder, progress=lambda text, done, total: None)


def test_every_kind_of_tensor_is_read_back_by_safetensors(tmp_path):
    tensors = {
        "bytes": torch.arange(3, dtype=torch.uint8),
        "flag": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "count": torch.tensor([1 << 40, -1]),
        "strided": torch.arange(12.0).reshape(3, 4).T,
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
    }
    assert write(tensors, tmp_path) == ["model.safetensors"]
    got = load_file(tmp_path / "model.safetensors")
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.float() if tensor.is_floating_point() else tensor
        assert got[name].dtype == expected.dtype, name
        assert torch.equal(got[name], expected), name
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_hold_every_tensor_once_and_the_index_names_them(tmp_path):
    tensors = {f"layer.{i}": torch.full((100,), float(i)) for i in range(7)}
    files = write(tensors, tmp_path, size="1KB")  # 400 bytes each: two a file
    assert files == [*[f"model-0000{i}-of-00004.safetensors" for i in range(1, 5)], "model.safetensors.index.json"]
    index = json.loads((tmp_path / files[-1]).read_text())
    assert index["metadata"]["total_size"] == 2800
    found = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert not list(tmp_path.glob(".*"))


def test_an_interrupted_write_leaves_neither_file_nor_index(tmp_path):
    tensors = {"good": torch.ones(300), "bad": torch.tensor([1.0, float("nan")])}
    with pytest.raises(UserError, match="bad holds NaN"):
        write(tensors, tmp_path, size="1KB")
    assert [path.name for path in tmp_path.iterdir()] == ["model-00001-of-00002.safetensors"]


def test_values_that_do_not_fit_float16_are_refused(tmp_path):
    with pytest.raises(UserError, match="float16 ends at 65,504"):
        write({"w": torch.tensor([70_000.0])}, tmp_path, dtype=torch.float16)


def test_a_bad_shard_size_or_dtype_says_what_is_allowed():
    specs = StoredWeights({"w": torch.ones(2)}).specs()
    with pytest.raises(UserError, match="5GB or 500MB"):
        plan_weights(specs, {"w": "w"}, dtype=torch.float32, max_shard_size="big")
    with pytest.raises(UserError, match="float32, bfloat16, float16"):
        release_dtype(specs, "int8")


@pytest.mark.parametrize(
    ("dtypes", "kept"),
    [
        ([torch.bfloat16, torch.bfloat16], torch.bfloat16),
        ([torch.bfloat16, torch.float32], torch.float32),
        ([torch.bfloat16, torch.float16], torch.float32),  # neither holds the other's values
        ([torch.bfloat16, torch.int64], torch.bfloat16),
    ],
)
def test_the_default_dtype_loses_nothing(dtypes, kept):
    specs = StoredWeights({str(i): torch.ones(1, dtype=dtype) for i, dtype in enumerate(dtypes)}).specs()
    assert release_dtype(specs, None) == kept


def test_a_tied_tensor_is_stored_once_under_the_name_transformers_keeps():
    model = llama(tied=True)
    architecture = read_architecture(model.config.to_dict())
    assert architecture.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    both = StoredWeights(model.state_dict()).specs()
    assert "lm_head.weight" in both
    names = match_names(architecture, both, source="x")
    assert set(names) == set(both) - {"lm_head.weight"}
    only_head = {name: spec for name, spec in both.items() if name != "model.embed_tokens.weight"}
    assert match_names(architecture, only_head, source="x")["model.embed_tokens.weight"] == "lm_head.weight"


def test_tensors_that_do_not_fit_are_named():
    model = llama()
    architecture = read_architecture(model.config.to_dict())
    state = model.state_dict()
    state["model.extra.weight"] = state.pop("model.norm.weight")
    state["lm_head.weight"] = torch.zeros(5, 32)
    with pytest.raises(UserError) as error:
        match_names(architecture, StoredWeights(state).specs(), source="the checkpoint")
    text = str(error.value)
    assert "missing model.norm.weight" in text
    assert "unexpected model.extra.weight" in text
    assert "lm_head.weight [5, 32] instead of [320, 32]" in text


def test_models_whose_files_have_other_names_are_refused():
    from transformers import MixtralConfig

    config = MixtralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=2,
    )  # fmt: skip
    with pytest.raises(UserError, match="mixture of experts"):
        read_architecture(config.to_dict())


def test_an_unknown_model_type_is_refused():
    with pytest.raises(UserError, match="no model type 'house-made'"):
        read_architecture({"model_type": "house-made"})


def test_a_model_folder_is_read_through_its_index(tmp_path):
    tensors = {f"layer.{i}": torch.full((100,), float(i), dtype=torch.bfloat16) for i in range(5)}
    write(tensors, tmp_path, dtype=torch.bfloat16, size="0.5KB")
    source = safetensors_of(str(tmp_path))
    assert source.specs()["layer.3"] == ((100,), torch.bfloat16)
    assert torch.equal(source.read("layer.3"), tensors["layer.3"])
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match="has no model-00002"):
        safetensors_of(str(tmp_path))


def test_a_damaged_safetensors_file_is_one_message(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        SafetensorsWeights([path])
