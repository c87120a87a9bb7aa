"""A LoRA run as an adapter: proved on its public base with its own positions, and published, fetched and loaded so."""

import json

import pytest
import torch
from release_folder import contents, edit_json, llama, record, remote_contents, save

from lit_long.errors import UserError
from lit_long_hub import export_checkpoint, pull_release, push_release, validate_release

peft = pytest.importorskip("peft")
BASE, REPO = "example/tiny-llama", "acme/tiny-adapter"


@pytest.fixture
def base_folder(tmp_path, small_tokenizer):
    """The base model at its native length and RoPE base."""
    import transformers

    model = llama("abf", max_position_embeddings=64, rope_parameters={"rope_type": "default", "rope_theta": 10_000.0})
    model.save_pretrained(tmp_path / "base")
    transformers.AutoTokenizer.from_pretrained(small_tokenizer).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def public_base(hub, base_folder):
    """The same on the Hub; the commit."""
    repo = hub.store.create("models", BASE, private=False)
    repo.commit("base", hub.store.tree_of(contents(base_folder)), author="example")
    return repo.branches["main"]


@pytest.fixture
def run(tmp_path, small_tokenizer):
    """Makes the checkpoint of a run with adapters, embeddings and norms trained."""

    def make(**changes):
        model = llama("abf")  # the base's weights: positions alone differ
        settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        wrapped = peft.get_peft_model(model, settings)
        torch.manual_seed(3)
        for name, parameter in wrapped.named_parameters():
            parameter.requires_grad_("lora_" in name or "embed_tokens" in name or "norm" in name)
            if parameter.requires_grad:
                parameter.data.add_(torch.randn_like(parameter) * 0.1)
        state = {name: value.detach() for name, value in wrapped.named_parameters() if value.requires_grad}
        lora = json.loads(json.dumps(wrapped.peft_config["default"].to_dict(), default=sorted))
        entry = record(model, "abf", tokenizer=str(small_tokenizer), lora=lora, **{"base_model": BASE} | changes)
        return wrapped.eval(), save(tmp_path / "run.ckpt", state, entry)

    return make


def export(path, folder, **options):
    return export_checkpoint(path, folder, adapter=True, license="apache-2.0", **options)


def as_the_card_says(folder, base, revision=None):
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(base, revision=revision, config=config)
    return peft.PeftModel.from_pretrained(model, folder).eval()


def logits(model):
    ids = torch.arange(300).remainder(256)[None]
    with torch.no_grad():
        return model(ids).logits


def test_from_the_run_to_another_machine(hub, public_base, run, tmp_path):
    trained, path = run()
    result = export(path, tmp_path / "adapter")
    adapter = result.verification["adapter"]
    assert (adapter["base_model"], adapter["revision"]) == (BASE, public_base)
    assert max(p["relative_difference"] for p in result.verification["prompts"]) < 1e-5
    # the warning in the card is earned: without the config the logits are wrong
    assert max(p["relative_difference"] for p in adapter["without_config"]) > 0.01

    validate_release(tmp_path / "adapter")
    push_release(tmp_path / "adapter", REPO, endpoint=hub.url, token="hf_writer", tag="v1")
    assert remote_contents(hub, REPO, "v1") == contents(tmp_path / "adapter")
    pulled = tmp_path / "elsewhere"
    pull_release(f"{REPO}@v1", pulled, endpoint=hub.url, token="hf_writer")
    loaded = as_the_card_says(pulled, BASE, json.loads((pulled / "adapter_config.json").read_text())["revision"])
    torch.testing.assert_close(logits(loaded), logits(trained), rtol=1e-5, atol=1e-5)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(trained), rtol=1e-4, atol=1e-4)

    card = (pulled / "README.md").read_text()
    assert "library_name: peft" in card
    assert "base_model_relation: adapter" in card
    assert "config = AutoConfig.from_pretrained(name)" in card
    assert "logits were off by up to" in card


def test_bfloat16_is_the_rounding_of_the_adapter_alone(hub, public_base, run, tmp_path):
    from safetensors.torch import load_file

    _, path = run()
    result = export(path, tmp_path / "adapter", dtype="bfloat16")
    assert max(p["relative_difference"] for p in result.verification["prompts"]) < 1e-5
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    assert not any(".default" in name for name in stored)


def test_evaluation_reads_an_adapter_with_its_positions(hub, public_base, run, tmp_path):
    from lit_long.model.inference import load_for_inference

    trained, path = run()
    export(path, tmp_path / "adapter")
    loaded = load_for_inference(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded.model), logits(trained), rtol=1e-4, atol=1e-4)
    assert loaded.native_length == 64
    (tmp_path / "adapter" / "config.json").unlink()
    with pytest.raises(UserError, match="an adapter without config"):
        load_for_inference(str(tmp_path / "adapter"))


def test_a_base_that_was_trained_on_and_is_not_the_public_one_is_found_out(
    hub, public_base, run, base_folder, tmp_path
):
    from safetensors.torch import load_file, save_file

    weights = load_file(base_folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"] *= 1.1
    save_file(weights, base_folder / "model.safetensors", metadata={"format": "pt"})
    _, path = run(base_model=str(base_folder))
    with pytest.raises(UserError, match=r"it is no Hub id.*--base-model ORG/NAME"):
        export(path, tmp_path / "adapter")
    from lit_long_hub.proof import ExportMismatchError

    with pytest.raises(ExportMismatchError, match="logits of prompt"):
        export(path, tmp_path / "adapter", base_model=BASE)
    assert not (tmp_path / "adapter" / "config.json").exists()
    assert not (tmp_path / "adapter" / "adapter_config.json").exists()


def test_what_cannot_be_an_adapter_is_refused(hub, public_base, run, tmp_path, small_tokenizer):
    model = llama("abf")
    whole = save(tmp_path / "whole.ckpt", model.state_dict(), record(model, tokenizer=str(small_tokenizer)))
    with pytest.raises(UserError, match="without LoRA"):
        export(whole, tmp_path / "adapter")
    _, path = run()
    with pytest.raises(UserError, match="neither a folder here nor a Hub model"):
        export(path, tmp_path / "adapter", base_model="example/nothing")


def test_a_folder_that_was_changed_is_not_published(hub, public_base, run, tmp_path):
    _, path = run()
    export(path, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    whole = file.read_text()
    for changes, says in (
        ({"base_model_name_or_path": "/home/me/llama"}, "is no Hub id"),
        ({"base_model_name_or_path": "other/model"}, "the card says example/tiny-llama"),
        ({"revision": None}, "no revision"),
        ({"peft_type": "IA3"}, "not of a LoRA adapter"),
    ):
        file.write_text(whole)
        edit_json(file, **changes)
        with pytest.raises(UserError, match=says):
            validate_release(tmp_path / "adapter")
