"""Loading a model to measure it: folders, training checkpoints (whole and adapters), and everything that is neither."""

import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lit_long.errors import UserError
from lit_long.model import LoraSettings, ModelSpec, build_model, load_for_inference
from lit_long.model.inference import read_checkpoint
from lit_long.model.lora import plain_lora_config
from lit_long.rope import ABF

IDS = torch.arange(40)[None] * 11


def trained_model(model=None, model_config=None, lora=None):
    """A model as training builds it, with weights of its own."""
    spec = ModelSpec(
        model=model,
        model_config=model_config,
        revision=None,
        rope=ABF(base=80_000.0),
        context_length=256,
        attention="packed",
        lora=lora,
    )
    built = build_model(spec).model
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return built.eval()


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def checkpoint(model, path, **changes):
    """What `lit-long fit` writes, as far as loading needs it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.to_dict()
    for key in ("dtype", "transformers_version", "_name_or_path"):
        config.pop(key, None)
    lora = plain_lora_config(model)
    only = {name for name, p in model.named_parameters() if p.requires_grad} if lora else set(model.state_dict())
    state = {
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items() if k in only},
        "global_step": 3,
        "lit_long": {
            "format": 1,
            "config": config,
            "rope": {"method": "abf", "options": {"base": 80_000.0}, "native_length": 64, "context_length": 256},
            "base_model": None,
            "base_revision": None,
            "lora": lora,
            "training": {"steps": 3},
        }
        | changes.pop("record", {}),
    } | changes
    torch.save(state, path)
    return str(path)


def test_folder(tiny_model_dir):
    loaded = load_for_inference(tiny_model_dir)
    stock = AutoModelForCausalLM.from_pretrained(tiny_model_dir).eval()
    assert torch.equal(logits(loaded.model), logits(stock))
    assert not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert (loaded.native_length, loaded.source) == (64, {"model": tiny_model_dir})
    assert loaded.config.model_type == "llama"


def test_folder_in_bfloat16_is_measured_in_float32(tiny_model_dir, tmp_path):
    AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.bfloat16).save_pretrained(tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    assert {p.dtype for p in load_for_inference(str(tmp_path)).model.parameters()} == {torch.float32}


@pytest.mark.parametrize("tied", [True, False])
def test_checkpoint(tiny_config, tmp_path, tied):
    model = trained_model(model_config=tiny_config | {"tie_word_embeddings": tied})
    loaded = load_for_inference(checkpoint(model, tmp_path / "last.ckpt"))
    torch.testing.assert_close(logits(loaded.model), logits(model), rtol=1e-5, atol=1e-6)
    assert not loaded.model.training
    assert loaded.native_length == 64
    assert loaded.config.rope_parameters["rope_theta"] == 80_000.0
    assert loaded.source["training"] == {"steps": 3}
    assert loaded.source["rope"]["method"] == "abf"


def without(path, name):
    state = torch.load(path, weights_only=True)
    del state["state_dict"][name]
    torch.save(state, path)
    return path


def test_a_tied_tensor_may_be_stored_once_but_no_other_may_be_missing(tiny_config, tmp_path):
    tied = trained_model(model_config=tiny_config)
    path = without(checkpoint(tied, tmp_path / "tied.ckpt"), "model.lm_head.weight")
    torch.testing.assert_close(logits(load_for_inference(path).model), logits(tied), rtol=1e-5, atol=1e-6)

    apart = trained_model(model_config=tiny_config | {"tie_word_embeddings": False})
    path = without(checkpoint(apart, tmp_path / "apart.ckpt"), "model.lm_head.weight")
    with pytest.raises(UserError, match=r"tensors do not fit the model: missing \['lm_head.weight'\]"):
        load_for_inference(path)


def test_checkpoint_with_foreign_tensors(tiny_config, tmp_path):
    model = trained_model(model_config=tiny_config)
    path = checkpoint(model, tmp_path / "x.ckpt")
    state = torch.load(path, weights_only=True)
    state["state_dict"]["model.extra"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(UserError, match=r"unexpected \['extra'\]"):
        load_for_inference(path)


def test_adapters(tiny_model_dir, tmp_path):
    model = trained_model(tiny_model_dir, lora=LoraSettings(r=2))
    path = checkpoint(model, tmp_path / "x.ckpt", record={"base_model": tiny_model_dir})
    assert "model.base_model.model.lm_head.weight" not in torch.load(path, weights_only=True)["state_dict"]
    loaded = load_for_inference(path)
    torch.testing.assert_close(logits(loaded.model), logits(model), rtol=1e-4, atol=1e-5)
    assert not any("lora" in name for name, _ in loaded.model.named_parameters())  # merged
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight
    assert loaded.model.config.max_position_embeddings == 256
    assert not torch.allclose(logits(load_for_inference(tiny_model_dir).model), logits(model))


def test_adapters_that_lack_tensors_or_their_base(tiny_model_dir, tmp_path):
    model = trained_model(tiny_model_dir, lora=LoraSettings(r=2))
    path = checkpoint(model, tmp_path / "x.ckpt", record={"base_model": str(tmp_path / "gone")})
    with pytest.raises(UserError, match="gone' cannot be loaded"):
        load_for_inference(path)
    path = checkpoint(model, tmp_path / "x.ckpt", record={"base_model": tiny_model_dir})
    name = next(n for n in torch.load(path, weights_only=True)["state_dict"] if "lora_B" in n)
    with pytest.raises(UserError, match=r"adapter tensors do not fit the base model .*: missing"):
        load_for_inference(without(path, name))


class Evil:
    def __reduce__(self):
        return (exit, (3,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"garbage", "not a readable checkpoint"),
        (b"", "not a readable checkpoint"),
        ({"state_dict": {}}, "a checkpoint, but not one of lit-long"),
        ([1, 2], "a checkpoint, but not one of lit-long"),
        ({"lit_long": {"format": 99}}, "format 99 is newer than this lit-long"),
        ({"lit_long": Evil()}, "not a readable checkpoint"),
    ],
    ids=["garbage", "empty", "foreign", "list", "newer", "code"],
)
def test_files_that_are_no_checkpoint(tmp_path, content, message):
    path = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UserError, match=message) as caught:
        load_for_inference(str(path))
    assert str(caught.value).startswith(str(path))


def test_a_file_that_was_cut_short(tiny_config, tmp_path):
    path = tmp_path / "x.ckpt"
    checkpoint(trained_model(model_config=tiny_config), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_checkpoint(path)


def test_places_without_a_model(tmp_path, tiny_model_dir):
    with pytest.raises(UserError, match=r"x\.ckpt: does not exist"):
        load_for_inference(str(tmp_path / "x.ckpt"))
    (tmp_path / "d.ckpt").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        load_for_inference(str(tmp_path / "d.ckpt"))
    for place in (str(tmp_path), str(tmp_path / "nothing"), "nobody/nothing"):
        with pytest.raises(UserError, match="cannot be loaded"):
            load_for_inference(place)
    folder = tmp_path / "m"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_for_inference(str(folder))
