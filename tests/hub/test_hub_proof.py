"""The proof: passes for what was trained, refuses every sabotage. The folder is read in this process (fast)."""

import json

import pytest
import torch
from hub_checkpoints import CONTEXT, NATIVE, ROPES, VOCAB, llama
from safetensors.torch import load_file, save_file

from lit_long.errors import UserError
from lit_long_hub import proof_reader
from lit_long_hub.architecture import read_architecture
from lit_long_hub.checkpoint import read_checkpoint
from lit_long_hub.config_files import release_config
from lit_long_hub.export import export_checkpoint
from lit_long_hub.legacy_rope import legacy_rope
from lit_long_hub.proof import TEXTS, ExportMismatchError, prove, withdraw
from lit_long_hub.reference import make_prompts, measure_reference
from lit_long_hub.release_weights import open_weights
from lit_long_hub.tokenizer_files import load_tokenizer

PROMPTS = make_prompts(vocab_size=VOCAB, native_length=NATIVE, context_length=CONTEXT)


@pytest.fixture
def prove_after(make_checkpoint, tokenizer_folder, tmp_path):
    """Export, let a function damage the folder, then prove it: ``prove_after(model, method, damage, ...)``."""

    def act(model, method="abf", damage=lambda folder: None, *, dtype=None, **entry):
        path = make_checkpoint(model, method, **entry)
        folder = tmp_path / "out"
        export_checkpoint(path, folder, dtype=dtype, verify=False)
        source = read_checkpoint(path)
        architecture = read_architecture(source.record["config"])
        weights = open_weights(source, architecture, base=None, revision=None)
        kept = getattr(torch, dtype or "float32")
        reference = measure_reference(architecture, weights, dtype=kept, prompts=PROMPTS)
        expected = proof_reader.read_tokenizer(load_tokenizer(tokenizer_folder, "x"), TEXTS)
        damage(folder)
        return prove(folder, reference, expected | {"model_max_length": CONTEXT}, reader=proof_reader.read_folder)

    return act


def edit(name, **changes):
    """Damage: set keys of a JSON file, or delete those given as None."""

    def act(folder):
        content = json.loads((folder / name).read_text())
        content.update(changes)
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return act


def edit_tensor(name, change):
    """Damage: replace one tensor."""

    def act(folder):
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors[name] = change(tensors[name].clone())
        save_file(tensors, path, metadata={"format": "pt"})

    return act


@pytest.mark.parametrize("method", ROPES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_an_honest_export_passes(prove_after, method, tied):
    numbers = prove_after(llama(method, tied=tied), method, dtype="bfloat16" if tied else None)
    assert numbers["passed"]
    assert [prompt["last_position"] for prompt in numbers["prompts"]] == [31, CONTEXT - 1, CONTEXT - 1]
    assert numbers["dtype"] == ("bfloat16" if tied else "float32")


def corrupt_one_value(tensor):
    tensor[3, 5] += 0.5
    return tensor


@pytest.mark.parametrize(
    ("method", "damage", "said"),
    [
        ("abf", edit("config.json", rope_theta=10_000.0), "as older readers compute it"),
        ("abf", edit("config.json", rope_theta=None, rope_scaling=None), "as older readers compute it"),
        ("yarn", edit("config.json", rope_scaling=None), "as older readers compute it"),
        (
            "abf",
            edit("config.json", rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
            "training model's by",
        ),
        ("yarn", edit("config.json", rope_parameters=ROPES["linear"], rope_scaling=None), "training model's by"),
        ("abf", edit("config.json", max_position_embeddings=NATIVE), f"max_position_embeddings is {NATIVE}"),
        ("abf", edit("config.json", dtype="bfloat16", torch_dtype="bfloat16"), "load as bfloat16"),
        ("abf", edit("tokenizer_config.json", model_max_length=NATIVE), "model_max_length differs"),
        ("abf", edit("tokenizer_config.json", eos_token="<s>"), "special differs"),
        ("abf", edit_tensor("model.layers.1.mlp.up_proj.weight", corrupt_one_value), "logits of prompt"),
        ("abf", edit_tensor("lm_head.weight", lambda tensor: tensor * float("nan")), "not finite"),
    ],
)
def test_sabotage_is_refused(prove_after, method, damage, said):
    with pytest.raises(ExportMismatchError, match=said) as error:
        prove_after(llama(method), method, damage)
    assert error.value.verification["passed"] is False
    assert error.value.verification["problems"]
    json.dumps(error.value.verification, allow_nan=False)


def test_a_checkpoint_of_unequal_tied_weights_is_refused(make_checkpoint, tmp_path):
    model = llama(tied=True)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    state["lm_head.weight"] += 1
    with pytest.raises(UserError, match=r"ties lm_head\.weight"):
        export_checkpoint(make_checkpoint(model, state=state), tmp_path / "out", verify=False)


def test_a_withdrawn_folder_loads_nowhere(tmp_path):
    for name in ("config.json", "README.md", "model.safetensors.index.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    withdraw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json.refused", "model.safetensors"]


@pytest.mark.parametrize("method", ROPES)
@pytest.mark.parametrize("head_dim", [8, 64])
def test_the_legacy_rule_agrees_with_transformers(method, head_dim):
    model = llama(method, head_dim=head_dim)
    live, scaling, _ = proof_reader.rotary(model)
    config = release_config(
        read_architecture(model.config.to_dict()), context_length=CONTEXT, dtype=torch.float32, token_ids={}
    )
    del config["rope_parameters"]
    inv_freq, attention = legacy_rope(config)
    torch.testing.assert_close(inv_freq, live, rtol=1e-6, atol=0)
    assert attention == pytest.approx(scaling, rel=1e-9)


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}, "'dynamic' cannot be proved"),
        (ROPES["yarn"] | {"factor": 4.0}, "engines that derive one from the other"),
    ],
)
def test_positions_that_readers_disagree_on_are_refused(rope, said):
    architecture = read_architecture(llama(rope_parameters=rope).config.to_dict())
    with pytest.raises(UserError, match=said):
        release_config(architecture, context_length=CONTEXT, dtype=torch.float32, token_ids={})


def test_prompts_reach_past_long_native_lengths():
    prompts = make_prompts(vocab_size=10, native_length=8192, context_length=32_768)
    beyond, far = prompts[1]["position_ids"], prompts[2]["position_ids"]
    assert len(beyond) == 1024
    assert beyond[0] < 8192 < beyond[-1]
    assert beyond == list(range(beyond[0], beyond[0] + 1024))
    assert (far[0], far[-1], len(far)) == (0, 32_767, 64)
    assert prompts == make_prompts(vocab_size=10, native_length=8192, context_length=32_768)


def test_jumps_in_the_positions_are_not_read_as_packed_documents():
    """The far prompt must attend over all its tokens; transformers would cut it at every jump without a mask."""
    model = llama()
    far = PROMPTS[2]
    changed = far | {"input_ids": [(far["input_ids"][0] + 1) % VOCAB, *far["input_ids"][1:]]}
    last = [proof_reader.measure(model, [prompt])["far"][-1] for prompt in (far, changed)]
    assert not torch.equal(last[0], last[1])


def test_the_loss_by_position_is_compared_and_kept(make_checkpoint, tmp_path):
    result = export_checkpoint(make_checkpoint(llama("abf")), tmp_path / "out")
    rows = result.verification["loss_by_position"]
    assert [rows[0]["first_position"], rows[-1]["last_position"]] == [1, 511]
    assert len(rows) == 4
    for row in rows:
        assert abs(row["training_model"] - row["release"]) < 1e-4
        assert row["training_model"] > 1


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llama", True), ("qwen3", False), ("smollm3", True), ("granite", True), ("phi3", False), ("gemma2", True)],
)
def test_half_the_memory_gives_the_same_numbers(family, tied):
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "tie_word_embeddings": tied}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **shape), dtype=torch.bfloat16).eval()
    prompts = make_prompts(vocab_size=64, native_length=16, context_length=48)
    sizes = []

    class Widest(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            sizes.append(sum(p.numel() * p.element_size() for p in model.parameters()))
            return function(*args, **(kwargs or {}))

    with Widest():
        found = proof_reader.measure(proof_reader.computing_in_float32(model), prompts)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    total = sum(p.numel() for p in model.parameters())
    largest = max(sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules())
    assert 2 * total < max(sizes) <= 2 * total + 2 * largest
    expected = proof_reader.measure(model.float(), prompts)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
