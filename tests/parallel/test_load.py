"""Each rank reads its share of the files, and the sharded model is the one that transformers loads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.errors import UserError
from lit_long.model.lora import LoraSettings, add_lora
from lit_long.parallel.load import load_shards, restore_buffers
from lit_long.parallel.mesh import make_meshes
from lit_long.parallel.placement import ShardedPlacement
from lit_long.parallel.sharding import Sharding, shard_model
from tests.gloo import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = {
    "vocab_size": 131, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 10, "max_position_embeddings": 256,
}  # fmt: skip
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64},
}  # fmt: skip


def save(folder, kind="llama", rope="default", shard="20KB", **options):
    torch.manual_seed(3)
    config = AutoConfig.for_model(kind, **SHAPE, rope_parameters=dict(ROPES[rope]), **options)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder, max_shard_size=shard)
    return folder


def sharding(ranks, replicate=1):
    meshes = make_meshes("cpu", ranks, data_parallel=ranks, context=1, replicate=replicate)
    return Sharding(mesh=meshes.shard, device=torch.device("cpu"))


def loaded(rank, folder, ranks, replicate, lora):
    """The model's weights, logits and buffers after loading in shards."""
    placement = ShardedPlacement(sharding(ranks, replicate), str(folder))
    config = AutoConfig.from_pretrained(folder)
    model = placement.empty(lambda: AutoModelForCausalLM.from_config(config, dtype=torch.float32), pretrained=True)
    if lora:
        torch.manual_seed(5)
        model = add_lora(model, LoraSettings(r=4))
    placement.place(model)
    # as many bytes as the rank keeps
    kept = sum(p.to_local().numel() * 4 for n, p in model.named_parameters() if "lora_" not in n)
    assert placement.report.bytes_read == kept
    assert not placement.report.unused
    weights = {name: p.full_tensor() for name, p in model.named_parameters()}
    with torch.no_grad():
        logits = model(torch.arange(1, 60)[None]).logits
    return {"weights": weights, "buffers": dict(model.named_buffers()), "logits": logits}


@pytest.mark.parametrize(
    ("ranks", "replicate", "kind", "rope", "options"),
    [
        (1, 1, "llama", "default", {}),
        (2, 1, "llama", "llama3", {"tie_word_embeddings": True}),
        (3, 1, "qwen3", "yarn", {}),
        (4, 2, "llama", "default", {}),
    ],
)
def test_is_what_transformers_loads(tmp_path, ranks, replicate, kind, rope, options):
    folder = save(tmp_path / "model", kind, rope, **options)
    assert len(list(folder.glob("*.safetensors"))) > 3
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = reference(torch.arange(1, 60)[None]).logits
    for found in run_ranks(loaded, tmp_path, folder, ranks, replicate, False, ranks=ranks):
        assert found["weights"].keys() == dict(reference.named_parameters()).keys()
        for name, weight in reference.named_parameters():
            assert torch.equal(found["weights"][name], weight), name
        for name, buffer in reference.named_buffers():
            assert torch.equal(found["buffers"][name], buffer), name
        assert torch.equal(found["logits"], logits)


def test_adapters_begin_as_on_one_process(tmp_path):
    folder = save(tmp_path / "model")
    torch.manual_seed(5)
    whole = add_lora(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), LoraSettings(r=4))
    for found in run_ranks(loaded, tmp_path, folder, 2, 1, True):
        for name, weight in whole.named_parameters():
            assert torch.equal(found["weights"][name], weight), name


def message(rank, folder):
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    shard_model(model, sharding(2))
    try:
        load_shards(model, str(folder))
    except UserError as error:
        return str(error)
    return "no error"


def broken(folder, how):
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    key = "model.layers.1.mlp.up_proj.weight"
    file = folder / index["weight_map"][key]
    tensors = load_file(file)
    if how == "missing":
        del tensors[key]
    if how == "shape":
        tensors[key] = tensors[key][:-1].clone()
    if how == "absent":
        file.unlink()
    elif how == "header":
        file.write_bytes(b"\x00" * 100)
    else:
        save_file(tensors, file)
    return file.name


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "lacks 1 tensors of a llama model (first ['model.layers.1.mlp.up_proj.weight']"),
        ("shape", "tensor model.layers.1.mlp.up_proj.weight is [71, 40], the model's is [72, 40]"),
        ("absent", "are not there (first ['{file}']"),
        ("header", "{file}: not a readable safetensors file"),
    ],
)
def test_every_rank_says_what_is_wrong(tmp_path, how, words):
    folder = save(tmp_path / "model")
    words = words.format(file=broken(folder, how))
    for found in run_ranks(message, tmp_path, folder):
        assert words in found


def test_a_decoder_without_output_layer_and_other_tensors(tmp_path):
    folder = save(tmp_path / "model", shard="1GB", tie_word_embeddings=True)
    tensors = {name.removeprefix("model."): t for name, t in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, "pooler.weight": torch.ones(2)}, folder / "model.safetensors")
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    report = load_shards(model, str(folder))
    assert report.unused == ("pooler.weight",)
    assert "1 in the files not used" in str(report)
    assert torch.equal(model.model.norm.weight, tensors["norm.weight"])


def test_where_there_are_no_safetensors(tmp_path):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE))
    with pytest.raises(UserError, match="neither model"):
        load_shards(model, str(tmp_path))
    with pytest.raises(UserError, match="GGUF"):
        load_shards(model, str(tmp_path / "model.gguf"))


def test_a_buffer_that_nobody_can_compute():
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SHAPE))
    model.model.norm.register_buffer("drift", torch.ones(3), persistent=False)
    with pytest.raises(UserError, match=r"model.norm has buffers \['drift'\]"):
        restore_buffers(model)


def peak(rank, folder):
    """MiB that the process grew by while it built, sharded and loaded the model; and MiB of its share."""

    def high_water():
        status = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024

    config = AutoConfig.from_pretrained(folder)
    placement = ShardedPlacement(sharding(2), str(folder))
    Path("/proc/self/clear_refs").write_text("5")
    before = high_water()
    model = placement.empty(lambda: AutoModelForCausalLM.from_config(config, dtype=torch.float32), pretrained=True)
    placement.place(model)
    return [high_water() - before, sum(p.to_local().numel() * 4 for p in model.parameters()) / 2**20]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux' own count of memory")
def test_memory_of_a_scaled_down_70b(tmp_path):
    config = AutoConfig.for_model(
        "llama", vocab_size=4000, hidden_size=512, intermediate_size=1792, num_hidden_layers=40,
        num_attention_heads=8, num_key_value_heads=1,
    )  # fmt: skip
    folder = tmp_path / "model"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    index = {}
    folder.mkdir()
    layers = {}
    for name, parameter in model.named_parameters():
        layers.setdefault(".".join(name.split(".")[:3]), {})[name] = torch.zeros(parameter.shape)
    for number, tensors in enumerate(layers.values()):
        file = f"model-{number:05}.safetensors"
        save_file(tensors, folder / file)
        index |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    config.save_pretrained(folder)
    whole = sum(p.numel() * 4 for p in model.parameters()) / 2**20
    layers.clear()
    for grown, share in run_ranks(peak, tmp_path, folder):
        assert share == pytest.approx(whole / 2, rel=0.01)
        assert grown < share + 60  # code that runs for the first time, one slice
        assert grown < 0.75 * whole
    shutil.rmtree(folder)
