"""A model trained with xPos: released with its own code, which alone runs it, and proved like any other."""

import json
import os
import subprocess
import sys

import pytest
import torch
from hub_checkpoints import CONTEXT, NATIVE, VOCAB, XPOS, llama
from huggingface_hub import ModelCard

from lit_long.attention import use_packed_attention
from lit_long.errors import UserError
from lit_long_hub import proof_reader
from lit_long_hub.architecture import read_architecture
from lit_long_hub.export import export_checkpoint
from lit_long_hub.proof import ExportMismatchError, read_in_fresh_process
from lit_long_hub.reference import make_prompts

CODE = {"configuration_xpos_llama.py", "modeling_xpos_llama.py"}


@pytest.fixture
def release(make_checkpoint, tmp_path):
    """An unproved release and the model it was made from."""
    model = llama("xpos_abf")
    export_checkpoint(make_checkpoint(model, "xpos_abf"), tmp_path / "out", verify=False)
    return tmp_path / "out", model


def load(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()


def tokens(rows, length):
    """Without 0, from which transformers would guess padding."""
    return torch.randint(1, VOCAB, (rows, length), generator=torch.Generator().manual_seed(1))


def test_an_export_is_proved_by_its_own_code_in_a_fresh_process(make_checkpoint, tmp_path, capsys):
    from lit_long_hub.cli.export import COMMAND

    model = llama("xpos_abf", tied=True)
    out = tmp_path / "out"
    result = export_checkpoint(make_checkpoint(model, "xpos_abf"), out, dtype="bfloat16", license="mit")
    assert set(result.files) >= CODE
    assert result.verification["passed"]
    assert result.verification["custom_code"] is True
    assert "trust_remote_code=True" in result.verification["rule"]
    assert [prompt["last_position"] for prompt in result.verification["prompts"]] == [31, CONTEXT - 1, CONTEXT - 1]

    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "xpos_llama"
    assert config["architectures"] == ["XPosLlamaForCausalLM"]
    assert config["rope_parameters"] == XPOS
    card = ModelCard.load(out / "README.md")
    assert "trust_remote_code=True" in card.text
    assert "runs another model" in card.text
    assert "vllm serve" not in card.text
    assert all(f"`{name}`" in card.text for name in CODE)

    from lit_long_hub.cli.export import _as_text

    assert COMMAND.name == "export"
    assert "trust_remote_code=True" in _as_text(result)


def test_the_fresh_process_gives_the_logits_of_training(release):
    """Beside the proof's own reference: the training model's packed attention, called here by hand."""
    folder, model = release
    prompts = make_prompts(vocab_size=VOCAB, native_length=NATIVE, context_length=CONTEXT)[:2]
    reading = read_in_fresh_process(folder, prompts, [], custom_code=True)
    with_decay, without = [], proof_reader.measure(model, prompts)
    use_packed_attention(model)
    for prompt in prompts:
        with torch.no_grad():
            positions = torch.tensor([prompt["position_ids"]])
            logits = model(input_ids=torch.tensor([prompt["input_ids"]]), position_ids=positions, use_cache=False)
        with_decay.append(logits.logits[0, -proof_reader.KEPT_POSITIONS :])
    for prompt, expected in zip(prompts, with_decay, strict=True):
        got = reading["logits"][prompt["name"]]
        torch.testing.assert_close(got, expected, rtol=0, atol=2e-5 * expected.abs().max().item())
        assert (expected - without[prompt["name"]]).abs().max() > 0.05 * expected.abs().max()  # the decay matters


@pytest.mark.parametrize("trust", ["False", "None"])
def test_without_trust_it_does_not_load(release, trust):
    folder, _ = release
    program = (
        "from transformers import AutoModelForCausalLM as A\n"
        f"try:\n    A.from_pretrained({str(folder)!r}, trust_remote_code={trust})\n"
        "except ValueError as error:\n    print('trust_remote_code' in str(error))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip().endswith("True")
    with pytest.raises(ExportMismatchError, match="custom code"):
        read_in_fresh_process(folder, [], [])  # the proof trusts no folder that was not made with code


def test_a_stock_type_is_refused_by_the_proof(release):
    folder, _ = release
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "llama"}))
    with pytest.raises(ValueError, match="loads without it"):
        proof_reader.read_folder(folder, [], [], custom_code=True)


@pytest.mark.parametrize(
    ("file", "old", "new", "scale_base"),
    [
        ("modeling_xpos_llama.py", "torch.exp2(-exponents)", "torch.exp2(exponents)", 100.0),
        ("modeling_xpos_llama.py", "query = (query * up[:, None]).to(query.dtype)", "pass", 100.0),
        # the default, slow for this context: a prompt beyond it shows the decay
        ("modeling_xpos_llama.py", "torch.exp2(-exponents)", "torch.exp2(exponents)", 25_600.0),
        ("config.json", '"xpos_scale_base": 25600.0', '"xpos_scale_base": 25500.0', 25_600.0),
        ("config.json", '"xpos_scale_base": 100.0', '"xpos_scale_base": 101.0', 100.0),
    ],
)
def test_other_scaling_is_refused(make_checkpoint, tmp_path, monkeypatch, file, old, new, scale_base):
    from lit_long_hub import export

    def damaged(folder, content, write=export.write_config):
        name = write(folder, content)
        path = folder / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return name

    monkeypatch.setattr(export, "write_config", damaged)
    model = llama("xpos_abf", rope_parameters=XPOS | {"xpos_scale_base": scale_base})
    with pytest.raises(ExportMismatchError, match="logits of prompt"):
        export_checkpoint(make_checkpoint(model, "xpos_abf"), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_generation_with_a_cache_is_generation_without(release, implementation):
    model = load(release[0])
    model.set_attn_implementation(implementation)
    prompt = tokens(2, 400)
    wanted = {"max_new_tokens": 24, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain = model.generate(prompt, use_cache=False, **wanted)
    assert plain.shape == (2, 424)
    assert torch.equal(model.generate(prompt, use_cache=True, **wanted), plain)
    static = model.generate(prompt, cache_implementation="static", disable_compile=True, **wanted)
    assert torch.equal(static, plain)
    padded = torch.cat([torch.zeros(2, 9, dtype=torch.int64), prompt], dim=1)
    mask = torch.cat([torch.zeros(2, 9, dtype=torch.int64), torch.ones_like(prompt)], dim=1)
    left = model.generate(padded, attention_mask=mask, **wanted)
    assert torch.equal(left[:, 9:], plain)


def test_a_cache_read_in_parts_gives_the_same_logits(release):
    model = load(release[0])
    ids = tokens(1, CONTEXT)
    with torch.no_grad():
        whole = model(ids).logits
        cache, parts = None, []
        for part in ids.split([300, 100, 100, 11, 1], dim=1):
            output = model(part, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            parts.append(output.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=2e-5 * whole.abs().max().item())


def test_a_long_context_at_the_least_scale_base_stays_in_range(make_checkpoint, tmp_path):
    """128 bits between the first and the last position, the most that lit-long trains with."""
    length = 1_000_000
    rope = XPOS | {"xpos_scale_base": 14_200.0}
    model = llama("xpos_abf", rope_parameters=rope, max_position_embeddings=length)
    positions = {"method": "xpos_abf", "native_length": NATIVE, "native_base": 1e4, "context_length": length}
    out = tmp_path / "out"
    export_checkpoint(make_checkpoint(model, "xpos_abf", rope=positions | {"options": {}}), out, verify=False)
    exported, ids = load(out), tokens(1, 64)
    use_packed_attention(model)
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.bfloat16, 0.1)):
        model, exported = model.to(dtype), exported.to(dtype)
        for first in (0, length // 2, length - 64):
            positions = torch.arange(64)[None] + first
            with torch.no_grad():
                expected = model(ids, position_ids=positions, use_cache=False).logits
                got = exported(ids, position_ids=positions).logits
            assert (got - expected).abs().max() < tolerance * expected.abs().max(), (dtype, first)


def test_a_model_saved_again_keeps_its_code(release, tmp_path):
    folder, _ = release
    model = load(folder)
    model.save_pretrained(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} >= CODE
    ids = tokens(1, 40)
    with torch.no_grad():
        assert torch.equal(load(tmp_path / "again")(ids).logits, model(ids).logits)


def test_an_earlier_export_with_code_is_cleared(release, make_checkpoint):
    folder, _ = release
    assert {path.name for path in folder.iterdir()} >= CODE
    export_checkpoint(make_checkpoint(llama("abf"), name="plain.ckpt"), folder, verify=False)
    assert not {path.name for path in folder.iterdir()} & CODE
    assert "auto_map" not in (folder / "config.json").read_text()


def test_what_is_refused(make_checkpoint, tmp_path):
    config = llama("xpos_abf").config.to_dict()
    with pytest.raises(UserError, match=r"exists for model type llama and not for 'qwen3'"):
        read_architecture(config | {"model_type": "qwen3"})
    with pytest.raises(UserError, match="part of each head"):
        read_architecture(config | {"rope_parameters": XPOS | {"partial_rotary_factor": 0.5}})
    checkpoint = make_checkpoint(llama("xpos_abf"), "xpos_abf")
    with pytest.raises(UserError, match="range of float16"):
        export_checkpoint(checkpoint, tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_float16_is_refused_by_the_code(release):
    with pytest.raises(ValueError, match="bfloat16 or float32"):
        load(release[0]).half()(tokens(1, 4))


def test_the_code_needs_torch_and_transformers_alone():
    from importlib import resources

    for name in CODE:
        text = (resources.files("lit_long_hub") / "templates" / name).read_text()
        lines = [line.split() for line in text.splitlines() if line.startswith(("import ", "from "))]
        assert {words[1].partition(".")[0] for words in lines} <= {
            "torch",
            "transformers",
            "math",
            "collections",
            "typing",
            "",
        }


def test_lora_with_xpos_is_merged_and_proved(make_checkpoint, tmp_path):
    peft = pytest.importorskip("peft")
    base = llama("xpos_abf")
    plain = llama("abf", rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    plain.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "o_proj"]))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    state = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    lora = json.loads(json.dumps(wrapped.peft_config["default"].to_dict(), default=sorted))
    checkpoint = make_checkpoint(base, "xpos_abf", state=state, lora=lora, base_model=str(tmp_path / "base"))
    result = export_checkpoint(checkpoint, tmp_path / "out")
    assert result.verification["passed"]
    assert set(result.files) >= CODE
