"""The leak check finds leaks: models that are right, and attention that is wrong in one way each."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AttentionInterface

from lit_long.attention import use_packed_attention
from lit_long.attention.leak import check_leak, require_no_leak
from lit_long.errors import UserError
from tests.attention.test_packed_attention import build


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox", "olmo2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_attention_has_none(name, dtype):
    model = use_packed_attention(build(name, dtype=dtype)).train()
    report = check_leak(model)
    assert report.leaks == ()
    assert "4 packed documents of 64 tokens: states bit-equal" in str(report)
    require_no_leak(report)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_stock_attention_keeps_documents_apart_by_positions_too():
    assert check_leak(build("llama", dtype=torch.float32)).leaks == ()


def test_stock_attention_that_is_not_told_of_documents_leaks():
    model = build("llama", dtype=torch.float32)

    def forward(batch):  # somebody's forward, which drops the positions
        return model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state

    report = check_leak(model, forward)
    assert any("a change of document 0 moves" in leak for leak in report.leaks)
    assert any("document 3 sends gradients to" in leak for leak in report.leaks)
    with pytest.raises(UserError, match=r"documents leak into each other: .*use_packed_attention"):
        require_no_leak(report)


def broken(kind):
    def attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
        scores = query @ key.repeat_interleave(query.shape[1] // key.shape[1], 1).transpose(2, 3) * scaling
        place = torch.arange(query.shape[2])
        document = (kwargs["position_ids"][0] == 0).cumsum(0)
        seen = place[:, None] >= place
        apart = document[:, None] == document
        if kind == "one token":  # only the last token of each document sees one of the document before
            apart = apart | (document[:, None] == document + 1) & (place == 16)
        if kind == "ahead":
            seen = torch.ones_like(seen)
        out = scores.masked_fill(~(seen & apart), float("-inf")).softmax(-1)
        if kind == "deaf":
            out = out.detach() * 0
        return (out @ value.repeat_interleave(query.shape[1] // value.shape[1], 1)).transpose(1, 2), None

    return attention


@pytest.mark.parametrize(
    ("kind", "message"),
    [("one token", "a change of document 0 moves 1 states of others"), ("ahead", "a token sees those behind it")],
)
def test_a_single_mistake_is_found(kind, message):
    model = build("llama", dtype=torch.float64, num_hidden_layers=1)
    AttentionInterface.register(f"broken_{kind}", broken(kind))
    model.set_attn_implementation(f"broken_{kind}")
    assert message in check_leak(model).leaks
    AttentionInterface.register("right", broken("nothing"))
    model.set_attn_implementation("right")
    assert check_leak(model).leaks == ()


def test_a_model_that_reads_nothing_does_not_pass():
    model = build("llama", dtype=torch.float32)
    report = check_leak(model, lambda batch: F.relu(model.get_input_embeddings()(batch["input_ids"]) * 0))
    assert "document 0 does not react to a change of its tokens" in report.leaks
