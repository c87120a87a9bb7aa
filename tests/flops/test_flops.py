"""FLOPs against the paper's table, PyTorch's own counter and counts by hand."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.data.schedule import LengthSchedule, Stage
from lit_long.errors import UserError
from lit_long.flops import causal_pairs, megatron_flops, megatron_run_flops, model_flops, peak_flops
from lit_long.model.lora import LoraSettings, add_lora

TOKENS_PER_STEP = 4_194_304


@pytest.mark.parametrize(
    ("switch", "expected"), [(None, "3.783e+22"), (0.2, "3.405e+22"), (0.4, "3.026e+22"), (0.8, "2.270e+22")]
)
def test_table_10_of_the_paper(switch, expected):
    """7B (32 layers, width 4,096), 100,000 steps of 4 M tokens, 4,096 tokens until the switch, then 32,768."""
    short = [] if switch is None else [Stage(sequence_length=4096, until=switch)]
    schedule = LengthSchedule([*short, Stage(sequence_length=32_768)])
    spans = schedule.spans(steps=100_000, tokens_per_step=TOKENS_PER_STEP)
    total = megatron_run_flops(spans, layers=32, hidden=4096, tokens_per_step=TOKENS_PER_STEP)
    assert f"{total:.3e}" == expected


def test_the_papers_formula_by_hand():
    assert megatron_flops(layers=2, hidden=8, sequence_length=48, tokens=10) == 72 * 2 * 64 * 2 * 10


def build(config, device="cpu"):
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").train()


def counted(model, length):
    """FLOPs by PyTorch's counter, one sequence of ``length``; eager attention computes the whole square."""
    ids = torch.zeros(1, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(ids, use_cache=False).logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("length", [48, 96])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False, "num_key_value_heads": 2},
        {"model_type": "qwen3", "num_attention_heads": 4},
        {"model_type": "gpt_neox", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    ],
)
def test_against_pytorchs_counter(tiny_config, length, changes):
    model = build(AutoConfig.for_model(**(tiny_config | changes)))
    assert counted(model, length) == model_flops(model).step(length, length**2)


def test_recomputation_against_pytorchs_counter(tiny_config):
    model = build(AutoConfig.for_model(**tiny_config))
    plain = counted(model, 64)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # checkpointing stops as soon as the last saved tensor is back, before the last product of a layer (down_proj)
    last = 2 * 64 * model.config.num_hidden_layers * model.model.layers[0].mlp.down_proj.weight.numel()
    assert counted(model, 64) - plain == model_flops(model).recomputation(64, 64**2) - last


def test_adapters_pay_for_the_frozen_base_without_its_gradients(tiny_config):
    model = add_lora(build(AutoConfig.for_model(**tiny_config)), LoraSettings(r=4))
    flops = model_flops(model)
    names = {n: p.numel() for n, p in model.named_parameters() if p.ndim > 1}
    adapters = sum(n for name, n in names.items() if "lora_" in name)
    head = names["base_model.model.model.embed_tokens.weight"]
    assert flops.trained == adapters + head
    assert flops.frozen == sum(names.values()) - adapters - head
    assert flops.head == head


def test_experts_count_as_often_as_they_are_used(tiny_config):
    options = tiny_config | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    flops = model_flops(build(AutoConfig.for_model(**options), "meta"))
    h, kv, ffn, layers = 64, 32, 128, 2
    layer = h * h * 2 + h * kv * 2 + 8 * h + 2 * 3 * h * ffn  # q and o, k and v, router, two experts of three matrices
    assert flops.trained == layers * layer + 4096 * h


def test_widths_of_keys_and_values_may_differ():
    config = AutoConfig.for_model(
        "deepseek_v3", num_hidden_layers=2, hidden_size=64, num_attention_heads=4, qk_nope_head_dim=24,
        qk_rope_head_dim=8, v_head_dim=16, q_lora_rank=16, kv_lora_rank=16, intermediate_size=64, vocab_size=64,
        first_k_dense_replace=2,
    )  # fmt: skip
    assert model_flops(build(config, "meta")).pair == 2 * 2 * 4 * (24 + 8 + 16)


def test_a_7b_model_costs_about_six_times_its_parameters_a_token():
    config = AutoConfig.for_model("llama")  # the defaults are Llama 2 7B
    flops = model_flops(build(config, "meta"))
    assert flops.trained == 6_738_415_616 - 32_000 * 4096 - 65 * 4096
    # the paper's formula has no output layer, a feed-forward of 4 h, and the whole square of the sequence
    ours = flops.step(1, 32_768 / 2) - 6 * flops.head
    assert ours == pytest.approx(72 * 32 * 4096**2 * (1 + 32_768 / (12 * 4096)), rel=0.02)


def test_windows_are_refused(tiny_config):
    with pytest.raises(UserError, match="sliding_window=32; FLOPs are counted for full causal attention"):
        model_flops(build(AutoConfig.for_model(**(tiny_config | {"model_type": "mistral", "sliding_window": 32}))))


def test_pairs_of_documents():
    ids = torch.zeros(2, 6, dtype=torch.int64)
    cut = torch.tensor([0, 2, 6, 7, 12], dtype=torch.int32)
    assert int(causal_pairs({"input_ids": ids, "cu_seqlens": cut})) == 3 + 10 + 1 + 15
    assert int(causal_pairs({"input_ids": ids})) == 2 * 21
    million = torch.tensor([0, 1 << 20], dtype=torch.int32)
    assert int(causal_pairs({"input_ids": ids, "cu_seqlens": million})) == (1 << 19) * ((1 << 20) + 1)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_peaks_are_known_or_left_out(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_flops(torch.device("cuda", 0)) == peak
    assert peak_flops(torch.device("cpu")) is None
