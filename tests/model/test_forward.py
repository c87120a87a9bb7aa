"""Loss of a packed batch against stock logits, and the proof that the output layer is what the loss assumes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.attention import use_packed_attention
from lit_long.data import TokenCorpus
from lit_long.data.packing.batch import IGNORE
from lit_long.errors import UserError
from lit_long.loss import OutputTransform
from lit_long.model import forward, output_layer
from lit_long.model.forward import hidden_states, unwrapped
from lit_long.model.output_layer import check_output_layer
from tests.data.fakes import packed_at

TINY = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def next_token_loss(*args, **kwargs):
    return forward.next_token_loss(*args, **kwargs).loss


def build(name, dtype=torch.float32, **changes):
    options = {key: value for key, value in (TINY | changes).items() if value is not None}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **options), dtype=dtype)


@pytest.fixture(scope="module")
def batch(corpus_dir):
    corpus = TokenCorpus(corpus_dir)
    return packed_at(corpus, [int(corpus.starts[1]) - 20, corpus.tokens - 9], 48, weight=93.0)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("weighted", [True, False])
def test_loss_is_the_cross_entropy_of_stock_logits(name, weighted, batch):
    model = build(name, torch.float64, vocab_size=4096)
    stock = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    losses = F.cross_entropy(stock.flatten(0, 1), batch["target_ids"].flatten(), ignore_index=IGNORE, reduction="none")
    weights = torch.rand(2, 48, dtype=torch.float64)
    expected = (losses * weights.flatten()).sum() if weighted else losses.sum()
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    use_packed_attention(model)
    loss = next_token_loss(model, batch | ({"target_weights": weights} if weighted else {}), chunk_size=7)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-11)
    for mine, other in zip(torch.autograd.grad(loss, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-10)


def test_bias_of_the_output_layer_counts(batch):
    model = build("phi", torch.float64, vocab_size=4096, head_dim=None, num_key_value_heads=2)
    nn.init.normal_(model.lm_head.bias)
    stock = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    expected = F.cross_entropy(stock.flatten(0, 1), batch["target_ids"].flatten(), reduction="sum")
    torch.testing.assert_close(next_token_loss(model, batch), expected, rtol=1e-11, atol=1e-11)
    assert check_output_layer(model) < 1e-6


def test_boundaries_are_optional(batch):
    """Without cu_seqlens the positions speak; without both a row is one document, as for stock transformers."""
    model = use_packed_attention(build("llama", torch.float64, vocab_size=4096))
    both = hidden_states(model, batch)
    torch.testing.assert_close(
        hidden_states(model, {k: batch[k] for k in ("input_ids", "position_ids")}), both, rtol=1e-12, atol=1e-12
    )
    assert not torch.allclose(hidden_states(model, {"input_ids": batch["input_ids"]}), both)


@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral", "olmo2"])
@pytest.mark.parametrize("packed", [True, False])
def test_plain_models_pass(name, packed):
    model = build(name, **({"sliding_window": None} if name == "mistral" else {}))
    if name == "mistral":
        model.config.sliding_window = None
    if packed:
        use_packed_attention(model)
    assert check_output_layer(model) < 1e-5


OTHER_OUTPUTS = pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("granite", {"logits_scaling": 8.0}),
        ("cohere", {"logit_scale": 0.0625}),
        ("cohere", {"logit_scale": 1.01}),
        ("gemma2", {"final_logit_softcapping": 30.0}),
        ("gemma2", {"final_logit_softcapping": 50.0}),
        ("nanochat", {"final_logit_softcapping": 15.0}),
    ],
)


@OTHER_OUTPUTS
@pytest.mark.parametrize("spread", [0.02, 4.0])
def test_scaled_and_capped_logits_give_the_models_own_loss(name, changes, spread, batch):
    model = build(name, torch.float64, vocab_size=4096, **changes)
    nn.init.normal_(model.get_output_embeddings().weight, std=spread)
    assert check_output_layer(model) < 1e-5
    stock = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    expected = F.cross_entropy(stock.flatten(0, 1), batch["target_ids"].flatten(), reduction="sum")
    loss = next_token_loss(model, batch, chunk_size=7)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-11)
    parameters = list(model.parameters())
    for mine, other in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(expected, parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-9)


@OTHER_OUTPUTS
@pytest.mark.parametrize("spread", [1e-3, 0.02, 0.5])
def test_output_functions_that_we_do_not_know_are_refused_however_small_the_logits(name, changes, spread, monkeypatch):
    model = build(name, **changes)
    nn.init.normal_(model.get_output_embeddings().weight, std=spread)
    monkeypatch.setattr(output_layer, "output_transform", lambda config: OutputTransform())
    with pytest.raises(UserError, match=f"{name}: its logits are not the output embedding times the hidden state"):
        check_output_layer(model)


def test_gemma2_without_its_cap_passes():
    model = build("gemma2")
    model.config.final_logit_softcapping = None
    assert check_output_layer(model) < 1e-5


def test_the_same_models_pass_where_they_are_plain():
    assert check_output_layer(build("granite", logits_scaling=1.0)) < 1e-5
    assert check_output_layer(build("cohere", logit_scale=1.0)) < 1e-5


def test_something_between_decoder_and_output_layer_is_refused():
    model = build("llama")
    model.lm_head.register_forward_pre_hook(lambda module, args: (args[0] * 1.5,))
    with pytest.raises(UserError, match="they differ by"):
        check_output_layer(model)


def test_an_output_layer_that_is_not_linear_is_refused():
    model = build("llama")
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(UserError, match="the output layer is a Sequential"):
        check_output_layer(model)


@pytest.mark.parametrize("fails", [False, True])
def test_probe_leaves_no_trace(fails, monkeypatch):
    model = build("llama", attention_dropout=0.5)
    if fails:
        monkeypatch.setattr(output_layer, "output_transform", lambda config: OutputTransform(scale=2.0))
    model.train()
    model.model.layers[1].eval()  # a user's frozen part
    modes = {name: module.training for name, module in model.named_modules()}
    before = torch.random.get_rng_state()
    if fails:
        with pytest.raises(UserError):
            check_output_layer(model)
    else:
        assert check_output_layer(model) < 1e-5  # dropout is off in the probe
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.lm_head._forward_hooks
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_peft_wrapper(batch):
    from lit_long.model import LoraSettings
    from lit_long.model.lora import add_lora

    plain = build("llama", torch.float64, vocab_size=4096)
    expected = next_token_loss(plain, batch).item()
    wrapped = add_lora(plain, LoraSettings(r=2))
    assert unwrapped(wrapped) is plain
    assert unwrapped(plain) is plain
    assert next_token_loss(wrapped, batch).item() == pytest.approx(expected, rel=1e-6)  # B is 0 at the start
    assert check_output_layer(wrapped) < 1e-5
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    assert next_token_loss(wrapped, batch).item() != pytest.approx(expected, rel=1e-6)  # the adapters do act
