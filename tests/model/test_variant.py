"""MODEL#METHOD: other positions on the same weights, without training."""

import json
import shutil

import pytest
import torch

from lit_long.cli.evaluate import parse_models
from lit_long.errors import UserError
from lit_long.evaluation.raw_store import model_key
from lit_long.model.inference import load_for_inference
from lit_long.model.tokenizer import load_tokenizer
from lit_long.model.variant import Variant, parse_variant


def test_what_users_write(tmp_path, monkeypatch):
    assert parse_variant("org/model#abf:base=500000,length=2048") == Variant(
        "org/model", "abf", (("base", 500_000.0),), 2048
    )
    assert parse_variant("hf://org/model@v1") == Variant("hf://org/model@v1")
    assert parse_variant("m#linear").at(512) == "m#linear:length=512"
    assert parse_variant("m#linear:factor=2.5,length=700").at(512) == "m#linear:factor=2.5,length=700"
    assert parse_models(["pi=m#linear", "m#abf:base=2e6", "runs/m#none", "m"], 640) == [
        ("pi", "m#linear:length=640"),
        ("m-abf", "m#abf:base=2000000,length=640"),
        ("m-none", "runs/m#none:length=640"),
        ("m", "m"),
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd#name").mkdir()
    assert parse_variant("odd#name") == Variant("odd#name")  # a path that is there is a path


@pytest.mark.parametrize("method", ["none", "linear", "abf:base=90000", "yarn", "xpos_abf:base=90000"])
def test_it_is_the_model_that_stock_transformers_makes(method, tiny_model_dir):
    """The same weights under the config that the method writes; native length and source are the base's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from lit_long.rope import scale_rope

    ids = torch.arange(200)[None] % 97
    text = f"{tiny_model_dir}#{method}{',' if ':' in method else ':'}length=256"
    loaded = load_for_inference(text)
    assert loaded.native_length == 64
    assert loaded.config.max_position_embeddings == 256
    assert loaded.source["model"] == tiny_model_dir
    assert loaded.source["rope"]["method"] == method.partition(":")[0]
    variant = parse_variant(text)
    config = scale_rope(AutoConfig.from_pretrained(tiny_model_dir), variant.scaling()[0], 256)
    plain = load_for_inference(tiny_model_dir).model
    with torch.no_grad():
        logits = loaded.model(ids).logits
        if not method.startswith("xpos"):  # whose decay is in our attention
            stock = AutoModelForCausalLM.from_pretrained(tiny_model_dir, config=config, dtype=torch.float32)
            torch.testing.assert_close(logits, stock(ids).logits, rtol=1e-4, atol=1e-4)
        same = torch.allclose(logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    assert same == (method == "none")


def test_raw_results_and_tokenizers_know_it(tiny_model_dir):
    keys = {
        model_key(tiny_model_dir + end) for end in ("", "#none:length=128", "#none:length=256", "#linear:length=256")
    }
    assert len(keys) == 4
    assert len(load_tokenizer(f"{tiny_model_dir}#none:length=128")) == len(load_tokenizer(tiny_model_dir))


@pytest.mark.parametrize(
    ("end", "says"),
    [
        ("#", "is not MODEL#METHOD"),
        ("#abf:base", "'base' is not KEY=NUMBER"),
        ("#abff:length=128", "did you mean 'abf'"),
        ("#abf:bass=9,length=128", "did you mean 'base'"),
        ("#abf:base=90000", "for how many tokens"),
        ("#abf:length=1.5", "whole number of tokens"),
        ("#linear:factor=1.5,length=256", "does not reach context_length 256"),
        ("#none:length=32", "shorter than the model's native 64"),
        ("/last.ckpt#none:length=256", "positions of a training checkpoint"),
    ],
)
def test_mistakes(end, says, tiny_model_dir):
    with pytest.raises(UserError, match=says):
        load_for_inference(tiny_model_dir + end)


def test_an_adapter_keeps_its_positions(tiny_model_dir, tmp_path):
    shutil.copytree(tiny_model_dir, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(UserError, match="is an adapter"):
        load_for_inference(f"{tmp_path / 'adapter'}#none:length=256")
