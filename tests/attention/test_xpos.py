"""xPos against its formula in float64, on models and at the edge of the floats' range."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.attention import packed_attention, use_packed_attention
from lit_long.attention.boundaries import Boundaries, boundaries
from lit_long.attention.xpos import centred_positions, xpos_scale
from lit_long.data import TokenCorpus
from lit_long.errors import UserError
from lit_long.rope import ABF, RopeGeometry, RopeMismatchError, XPosABF, scale_rope, switch_rope, verify_rope
from lit_long.rope.formulas import plain_inv_freq

DIM, BASE = 64, 500_000.0


def zeta():
    return [(2 * j + 0.4 * DIM) / (1.4 * DIM) for j in range(DIM // 2)]


def turned(states, positions):
    """[..., T, D] turned by positions, pairs (j, j + D/2)."""
    angles = positions.double()[:, None] * plain_inv_freq(DIM, BASE)
    x, y = states[..., : DIM // 2], states[..., DIM // 2 :]
    return torch.cat([x * angles.cos() - y * angles.sin(), y * angles.cos() + x * angles.sin()], dim=-1)


def scores_by_formula(query, key, positions, scale_base):
    """Scores by the complex form, written out pair by pair; causal ones only."""
    frequencies, total = plain_inv_freq(DIM, BASE), 0
    distance = (positions[:, None] - positions[None, :]).clamp(min=0).double()
    for j, z in enumerate(zeta()):
        q = torch.complex(query[:, j], query[:, j + DIM // 2])
        k = torch.complex(key[:, j], key[:, j + DIM // 2])
        total = total + (
            z ** (distance / scale_base) * (torch.outer(q, k.conj()) * torch.exp(1j * distance * frequencies[j])).real
        )
    return total


def test_scores_are_the_formula_and_know_distances_only():
    positions = torch.tensor([0, 1, 2, 700, 9000, 30_000])
    query, key = torch.randn(2, 6, DIM, dtype=torch.float64)
    want = scores_by_formula(query, key, positions, 4096.0).tril()
    for shift in (0, -15_000, 111_111):
        place = positions + shift
        scaled = xpos_scale(
            turned(query, place)[None, None], turned(key, place)[None, None], place[None].double(), 4096.0, DIM
        )
        found = (scaled[0] @ scaled[1].mT)[0, 0].tril()
        assert torch.allclose(found, want, rtol=1e-9, atol=1e-9), shift


def test_positions_are_counted_from_the_middle_of_each_document():
    position_ids = torch.tensor([[0, 1, 2, 0, 1], [7, 8, 9, 10, 0]])
    bounds = boundaries(None, position_ids, 2, 5)
    want = [[-1, 0, 1, -0.5, 0.5], [-1.5, -0.5, 0.5, 1.5, 0]]
    assert centred_positions(bounds, position_ids).tolist() == want
    skipping = Boundaries(torch.tensor([0, 3, 5], dtype=torch.int32), 1, 5)  # positions that leave gaps in a document
    assert centred_positions(skipping, torch.tensor([[0, 10, 30, 4, 5]])).tolist() == [[-15, -5, 15, -0.5, 0.5]]
    assert centred_positions(skipping, None).tolist() == [[-1, 0, 1, -0.5, 0.5]]
    one_row_for_all = torch.arange(4)[None]
    assert (
        centred_positions(boundaries(None, one_row_for_all, 2, 4), one_row_for_all).tolist()
        == [[-1.5, -0.5, 0.5, 1.5]] * 2
    )


class Layer(torch.nn.Module):
    """What packed attention asks of a layer."""

    def __init__(self, scale_base, head_dim=DIM):
        super().__init__()
        parameters = {"rope_type": "xpos", "rope_theta": BASE, "xpos_scale_base": scale_base}
        self.config = type("Config", (), {"rope_parameters": parameters, "head_dim": head_dim})


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-4), (torch.bfloat16, 2e-2)])
def test_at_the_least_scale_base_outputs_and_gradients_hold(dtype, limit):
    """The least scale base that is allowed for 4,096 tokens is where queries and keys span 2^-64 to 2^64."""
    length = 4096
    native = RopeGeometry(dim=DIM, base=10_000.0, native_length=256)
    with pytest.raises(UserError, match="at least 58") as refused:
        XPosABF(scale_base=10).validate(native, length)
    least = math.ceil(length / 2 * math.log2(3.5) / 64)
    assert f"at least {least}," in str(refused.value)
    XPosABF(scale_base=least).validate(native, length)
    states = [torch.randn(1, 1, length, DIM) * 3 for _ in range(3)]
    weight = torch.randn(1, length, 1, DIM) * 1e-6  # gradients are small in training
    position_ids = torch.arange(length)[None]
    results = []
    for kind in (dtype, torch.float64):
        leaves = [s.to(dtype).to(kind).requires_grad_() for s in states]
        out, _ = packed_attention(Layer(float(least)), *leaves, position_ids=position_ids)
        results.append([out, *torch.autograd.grad(out, leaves, weight.to(kind))])
    for mine, exact in zip(*results, strict=True):
        assert bool(mine.isfinite().all())
        assert float((mine.double() - exact).norm() / exact.norm()) < limit


def test_float16_is_refused():
    states = [torch.zeros(1, 1, 4, DIM, dtype=torch.float16)] * 3
    with pytest.raises(UserError, match="float16"):
        packed_attention(Layer(512.0), *states, position_ids=torch.arange(4)[None])


def build(name, scaling, dtype=torch.float32, **changes):
    """A tiny model for 512 tokens whose attention is far from uniform, and its native geometry."""
    sizes = {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0}
    config = AutoConfig.for_model(name, **sizes | MODELS[name])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(scale_rope(config, scaling, 512), dtype=dtype)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)
    return model.eval(), RopeGeometry.from_config(config)


MODELS = {
    "llama": {"head_dim": 16},
    "qwen3": {"head_dim": 16},
    "smollm3": {"no_rope_layers": [1, 0]},  # a layer without positions
    "gpt_neox": {"num_key_value_heads": None},  # a quarter of a head turns
    "granite": {"attention_multiplier": 0.3},
    "glm": {"head_dim": 16},
    "cohere": {},
}
CUTS = [0, 1, 20, 21, 50, 96]


@pytest.mark.parametrize("name", ["llama", "qwen3", "smollm3", "gpt_neox", "granite"])
def test_a_packed_model_equals_its_documents_alone_and_is_proved(name, corpus_dir):
    scaling = XPosABF(base=5e6, scale_base=40.0)
    model, native = build(name, scaling)
    with pytest.raises(RopeMismatchError, match="does not scale queries and keys"):
        verify_rope(model, scaling, native, 512)
    model.train()
    assert verify_rope(use_packed_attention(model), scaling, native, 512).module_count == 1
    assert all(module.training for module in model.modules())
    model.eval()
    ids = torch.from_numpy(TokenCorpus(corpus_dir).read(1000, 1096))[None]
    positions = torch.cat([torch.arange(b - a) for a, b in pairwise(CUTS)])[None]
    cuts = torch.tensor(CUTS, dtype=torch.int32)
    kernel = {"cu_seq_lens_q": cuts, "cu_seq_lens_k": cuts, "max_length_q": 46, "max_length_k": 46}
    with torch.no_grad():
        whole = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        assert torch.equal(whole, model(input_ids=ids, position_ids=positions, use_cache=False, **kernel).logits)
        for a, b in pairwise(CUTS):
            alone = model(input_ids=ids[:, a:b], use_cache=False).logits
            assert torch.allclose(whole[:, a:b], alone, atol=1e-4)
        model.config.rope_parameters["xpos_scale_base"] = 1e9  # as good as none: it matters
        assert not torch.allclose(
            whole, model(input_ids=ids, position_ids=positions, use_cache=False).logits, atol=1e-2
        )


def test_gradients_after_inference_mode_and_with_checkpointing():
    model, _ = build("llama", XPosABF(scale_base=40.0))
    use_packed_attention(model)
    ids, positions = torch.arange(1, 65)[None], torch.arange(64)[None]
    with torch.inference_mode():
        model(input_ids=ids, position_ids=positions, use_cache=False)

    def gradients():
        model.zero_grad()
        model(input_ids=ids, position_ids=positions, use_cache=False, labels=ids).loss.backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))


@pytest.mark.parametrize("name", ["glm", "cohere"])
def test_a_model_that_pairs_neighbours_is_refused(name):
    scaling = XPosABF(base=5e6, scale_base=100.0)
    model, native = build(name, scaling)
    with pytest.raises(RopeMismatchError, match="Use rope method 'abf'"):
        verify_rope(use_packed_attention(model), scaling, native, 512)


def test_positions_switch_to_xpos_and_back_in_a_live_model():
    scaling = XPosABF(scale_base=40.0)
    model, native = build("llama", scaling)
    use_packed_attention(model)
    ids = torch.arange(1, 97)[None]
    with torch.no_grad():
        xpos = model(input_ids=ids, use_cache=False).logits
        switch_rope(model, ABF(), native, 512)
        abf = model(input_ids=ids, use_cache=False).logits
        switch_rope(model, scaling, native, 512)
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, xpos)
        model.set_attn_implementation("sdpa")
    assert not torch.allclose(xpos, abf, atol=1e-2)
    with pytest.raises(RopeMismatchError, match="attention: packed"):
        switch_rope(model, scaling, native, 512)
