"""The streamed merge against peft's own merge_and_unload, and what it refuses."""

import pytest
import torch
from hub_checkpoints import llama

from lit_long.errors import UserError
from lit_long_hub.architecture import match_names, read_architecture
from lit_long_hub.lora import MergedWeights, check_mergeable
from lit_long_hub.weights import StoredWeights

peft = pytest.importorskip("peft")


def adapted(model, **settings):
    """A peft model with random LoRA tensors and trained embeddings and norms, its trainable state and its config."""
    usual = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**(usual | settings)))
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "embed_tokens" in name or "norm" in name:
            parameter.requires_grad_(True)
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    trainable = {name: value.detach().clone() for name, value in wrapped.named_parameters() if value.requires_grad}
    return wrapped, trainable, wrapped.peft_config["default"].to_dict()


def merge(base_state, trainable, lora, config):
    architecture = read_architecture(config.to_dict())
    base = StoredWeights(base_state)
    names = match_names(architecture, base.specs(), source="the base model")
    adapter = StoredWeights(trainable)
    source = MergedWeights(base=base, base_names=names, adapter=adapter, lora=lora, architecture=architecture)
    return {name: source.read(name) for name in source.specs()}


@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({}, False),
        ({}, True),
        ({"use_rslora": True}, False),
        ({"rank_pattern": {"q_proj": 2}}, True),
        ({"modules_to_save": ["embed_tokens"]}, False),
        ({"init_lora_weights": "gaussian"}, False),
    ],
)
def test_merge_equals_peft(settings, tied):
    base = {name: value.clone() for name, value in llama(tied=tied).state_dict().items()}
    wrapped, trainable, lora = adapted(llama(tied=tied), **settings)
    merged = merge(base, trainable, lora, wrapped.config)
    expected = wrapped.merge_and_unload().state_dict()
    assert any(not torch.equal(expected[name], base[name]) for name in base if "q_proj" in name)
    for name, value in merged.items():
        torch.testing.assert_close(
            value, expected[name], rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name} {text}"
        )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"init_lora_weights": "pissa"}, "changes the base weights"),
        ({"alpha_pattern": {"q_proj": 3}}, "alpha_pattern"),
        ({"peft_type": "IA3"}, "Only LoRA"),
        ({"lora_alpha": None}, "lack lora_alpha"),
    ],
)
def test_variants_with_another_merge_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        check_mergeable(peft.LoraConfig(r=4, lora_alpha=6).to_dict() | settings)


def test_a_tensor_of_no_layer_is_named():
    model = llama()
    base = {name: value.clone() for name, value in model.state_dict().items()}
    wrapped, trainable, lora = adapted(model)
    stray = trainable | {"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(3)}
    with pytest.raises(UserError, match="lora_magnitude_vector"):
        merge(base, stray, lora, wrapped.config)
    half = {name: value for name, value in trainable.items() if "layers.1.mlp.down_proj.lora_B" not in name}
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.down_proj\.weight are incomplete"):
        merge(base, half, lora, wrapped.config)
