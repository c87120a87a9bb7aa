"""Packed attention on real text against stock transformers: the same numbers, no leak, no mask, clear refusals."""

from itertools import pairwise

import pytest
import torch
import transformers
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.attention import BACKENDS, PACKED, packed_attention, use_packed_attention
from lit_long.attention.backends import AttentionBackend
from lit_long.data import TokenCorpus
from lit_long.errors import UserError
from lit_long.model.forward import hidden_states
from tests.data.fakes import packed_at

TINY = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
MODELS = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {},
    "smollm3": {"no_rope_layers": [1, 0], "pad_token_id": 0},  # a layer without positions
    "gemma": {},
    "olmo2": {},
    "granite": {"attention_multiplier": 0.3},
    "phi3": {"sliding_window": None, "pad_token_id": 0},
    "llama-one-head-each": {"num_key_value_heads": 4},
    "gpt_neox": {"num_key_value_heads": None, "head_dim": None},
}


def build(name, attention="sdpa", dtype=torch.float64, **changes):
    options = TINY | MODELS.get(name, {}) | changes
    options = {key: value for key, value in options.items() if value is not None or key == "sliding_window"}
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split("-")[0], **options)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.1)  # attention far from uniform
    return model.eval()


@pytest.fixture(scope="module")
def batch(corpus_dir):
    """Two rows of 96 real tokens; the second holds ends of documents: the short one of the corpus, and the ring's."""
    corpus = TokenCorpus(corpus_dir)
    short_end = corpus.tokens
    batch = packed_at(corpus, [int(corpus.starts[1]) - 40, short_end - 7], 96, weight=1.0)
    third = torch.zeros(96, dtype=torch.int64)  # and many documents, one of a single token
    cuts = [0, 1, 20, 21, 50, 96]
    tokens = torch.from_numpy(corpus.read(1000, 1096))
    for a, b in pairwise(cuts):
        third[a:b] = torch.arange(b - a)
    bounds = torch.cat([batch["cu_seqlens"], 192 + torch.tensor(cuts[1:], dtype=torch.int32)])
    return {
        "input_ids": torch.cat([batch["input_ids"], tokens[None]]),
        "position_ids": torch.cat([batch["position_ids"], third[None]]),
        "cu_seqlens": bounds,
        "max_seqlen": 96,
    }


def documents(batch):
    """(row, start, stop) of each document."""
    for row, positions in enumerate(batch["position_ids"]):
        starts = [*torch.nonzero(positions == 0).flatten().tolist(), len(positions)]
        yield from ((row, a, b) for a, b in pairwise(starts))


def run(model, batch, boundaries):
    """Logits, with boundaries given in one of the two ways."""
    if boundaries == "positions":
        return model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    return model.get_output_embeddings()(hidden_states(model, batch))


def test_the_batch_is_what_the_tests_need(batch):
    lengths = [b - a for _, a, b in documents(batch)]
    assert len(lengths) == 9
    assert min(lengths) == 1
    assert len({row for row, _, _ in documents(batch)}) == 3


@pytest.mark.parametrize("boundaries", ["positions", "cu_seqlens"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_gradients_are_those_of_stock_attention_and_of_each_document_alone(name, batch, boundaries):
    stock, packed = build(name), use_packed_attention(build(name))
    packed.load_state_dict(stock.state_dict())
    direction = torch.randn(3, 96, TINY["vocab_size"], dtype=torch.float64)
    results = {}
    for key, model in (("stock", stock), ("packed", packed)):
        logits = run(model, batch, "positions" if model is stock else boundaries)
        (logits * direction).sum().backward()
        results[key] = logits, {n: p.grad for n, p in model.named_parameters()}
    torch.testing.assert_close(results["packed"][0], results["stock"][0], rtol=1e-10, atol=1e-10)
    assert results["packed"][1].keys() == results["stock"][1].keys()
    for parameter, gradient in results["stock"][1].items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(results["packed"][1][parameter], gradient, rtol=1e-9, atol=1e-10)
    with torch.no_grad():
        for row, a, b in documents(batch):
            alone = stock(batch["input_ids"][row : row + 1, a:b], use_cache=False).logits
            torch.testing.assert_close(results["packed"][0][row, a:b], alone[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("boundaries", ["positions", "cu_seqlens"])
def test_a_document_neither_sees_nor_moves_another(batch, boundaries):
    model = use_packed_attention(build("llama"))
    embedding = model.get_input_embeddings()
    other = dict(batch, input_ids=batch["input_ids"].clone())
    row, a, b = list(documents(batch))[6]  # inside a row: documents before and behind it
    assert 0 < a < b < 96
    other["input_ids"][row, a:b] = (other["input_ids"][row, a:b] + 1) % 4096
    outside = torch.ones(3, 96, dtype=torch.bool)
    outside[row, a:b] = False
    with torch.no_grad():
        before, after = run(model, batch, boundaries), run(model, other, boundaries)
    assert torch.equal(before[outside], after[outside])
    assert not torch.equal(before[~outside], after[~outside])

    inputs = []
    handle = embedding.register_forward_hook(lambda module, args, out: inputs.append(out) or out)
    logits = run(model, batch, boundaries)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[row, a:b].square().sum(), inputs[-1])
    assert torch.equal(gradient[outside], torch.zeros_like(gradient[outside]))
    assert (gradient[row, a:b].abs().sum(-1) > 0).all()


def test_rows_may_share_one_position_row(batch):
    model = use_packed_attention(build("llama"))
    ids, positions = batch["input_ids"], batch["position_ids"][2:]
    with torch.no_grad():
        shared = model(ids, position_ids=positions, use_cache=False).logits
        own = model(ids, position_ids=positions.expand(3, -1), use_cache=False).logits
        assert torch.equal(shared, own)
        plain = model(ids, use_cache=False).logits  # no restarts: each row is one document
        stock = build("llama")(ids, use_cache=False).logits
    torch.testing.assert_close(plain, stock, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(plain, own)


def test_float32_and_training_with_checkpointing(batch):
    reference = use_packed_attention(build("llama", dtype=torch.float32)).train()
    model = use_packed_attention(build("llama", dtype=torch.float32)).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for each in (reference, model):
        hidden_states(each, batch).square().sum().backward()
    for ours, other in zip(model.parameters(), reference.parameters(), strict=True):
        assert (ours.grad is None) == (other.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, other.grad)


class Largest(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("boundaries", [[0, 700, 1024], [0, 1024]], ids=["two documents", "one document"])
def test_no_square_tensor(boundaries):
    """Memory grows with S, forward and backward, also with grouped heads."""
    length = 1024
    model = build("llama", dtype=torch.float32, num_hidden_layers=1, vocab_size=128)
    positions = torch.cat([torch.arange(b - a) for a, b in pairwise(boundaries)])
    batch = {"input_ids": torch.randint(0, 128, (1, length)), "position_ids": positions[None]}
    with Largest() as stock:
        hidden_states(model, batch).sum().backward()
    with Largest() as packed:
        hidden_states(use_packed_attention(model), batch).sum().backward()
    assert packed.numel <= 2 * length * 64
    if len(boundaries) > 2:
        assert stock.numel >= length * length  # the witness sees stock's mask


def test_padding_is_refused_and_a_mask_of_ones_is_not(batch):
    model = use_packed_attention(build("llama"))
    ids, positions = batch["input_ids"], batch["position_ids"]
    with torch.no_grad():
        expected = model(ids, position_ids=positions, use_cache=False).logits
        ones = model(ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False).logits
        assert torch.equal(ones, expected)
        mask = torch.ones_like(ids)
        mask[0, :3] = 0
        with pytest.raises(UserError, match="takes no padding or custom mask"):
            model(ids, attention_mask=mask, use_cache=False)
        with pytest.raises(UserError, match="takes no padding or custom mask"):
            model(ids, attention_mask=torch.ones(3, 1, 96, 96, dtype=torch.bool), use_cache=False)


def test_generation_is_refused_with_the_way_out(batch):
    model = use_packed_attention(build("llama"))
    ids = batch["input_ids"][:1, :8]
    with pytest.raises(UserError, match=r"key/value cache.*generate with attn_implementation='sdpa'"):
        model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None)
    # without a cache it is right
    options = {"max_new_tokens": 3, "do_sample": False, "use_cache": False, "pad_token_id": 0, "eos_token_id": None}
    ours = model.generate(ids, **options)
    assert torch.equal(ours, build("llama").generate(ids, **options))
    model.set_attn_implementation("sdpa")
    assert torch.equal(ours, model.generate(ids, **options | {"use_cache": True}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mistral", {"sliding_window": 32}, "mistral has sliding_window=32"),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0},
            "qwen2 has layers of type",
        ),
        ("gemma2", {}, r"gemma2 has layers of type \['sliding_attention'\]"),
        ("gemma3_text", {}, r"gemma3_text has layers of type \['sliding_attention'\]"),
        ("mamba", {}, "mamba has layers of type"),
        ("gptj", {}, "gptj does not use transformers' attention interface"),
    ],
)
def test_models_with_another_attention_are_refused_by_name(name, changes, message):
    model = build(name, attention=None, **changes)
    with pytest.raises(UserError, match=message):
        use_packed_attention(model)


def test_qwen2_with_its_window_switched_off_is_full_attention(batch):
    model = use_packed_attention(build("qwen2", use_sliding_window=False, sliding_window=32))
    stock = build("qwen2", use_sliding_window=False, sliding_window=32)
    with torch.no_grad():
        torch.testing.assert_close(
            run(model, batch, "positions"), run(stock, batch, "positions"), rtol=1e-10, atol=1e-10
        )


def test_a_model_that_keeps_positions_from_its_attention_cannot_leak_silently(batch):
    """Persimmon's layers do not hand position_ids on: the documents of a packed row would see each other."""
    model = use_packed_attention(build("persimmon", num_key_value_heads=None, head_dim=None))
    with torch.no_grad():
        with pytest.raises(UserError, match="got neither cu_seq_lens_q nor position_ids"):
            run(model, batch, "positions")
        logits = run(model, batch, "cu_seqlens")
        for row, a, b in documents(batch):
            alone = run(
                model,
                {
                    "input_ids": batch["input_ids"][row : row + 1, a:b],
                    "position_ids": torch.arange(b - a)[None],
                    "cu_seqlens": torch.tensor([0, b - a]),
                },
                "cu_seqlens",
            )
            torch.testing.assert_close(logits[row, a:b], alone[0], rtol=1e-10, atol=1e-10)


def call(module=None, tokens=8, **kwargs):
    query = torch.randn(2, 4, tokens, 16)
    key = torch.randn(2, 2, kwargs.pop("keys", tokens), 16)
    return packed_attention(
        module or nn.Module(), query, key, key, **{"position_ids": torch.arange(tokens)[None]} | kwargs
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"softcap": 50.0}, "softcap=50.0"),
        ({"sliding_window": 128}, "sliding_window=128"),
        ({"s_aux": torch.zeros(4)}, "s_aux="),
        ({"is_causal": False}, "is not causal"),
        ({"keys": 9}, "8 queries and 9 keys"),
        ({"cu_seq_lens_q": torch.tensor([0, 8])}, "must cover 2 x 8 tokens"),
        ({"cu_seq_lens_q": torch.tensor([0, 5, 11, 16])}, "hold every row's start"),
        ({"cu_seq_lens_q": torch.tensor([0, 5, 16])}, "hold every row's start"),  # as many as rows, and not theirs
        ({"position_ids": torch.zeros(3, 2, 8, dtype=torch.int64)}, r"\[3, 2, 8\].*M-RoPE"),
        ({"block_indices": torch.zeros(4)}, "block_indices="),
        ({"position_ids": None}, "got neither cu_seq_lens_q nor position_ids"),
    ],
)
def test_arguments_that_mean_another_attention(options, message):
    with pytest.raises(UserError, match=message):
        call(**options)


@pytest.mark.parametrize("rows", [[[8]], [[3, 5]], [[8], [1, 7]], [[7, 1], [8]], [[1] * 8, [4, 4]]], ids=str)
def test_every_way_of_cutting_rows(rows):
    query = torch.randn(len(rows), 4, 8, 16, dtype=torch.float64)
    key, value = torch.randn(2, len(rows), 2, 8, 16, dtype=torch.float64)
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in rows])
    bounds = torch.tensor([0, *[n for row in rows for n in row]]).cumsum(0)
    allowed = torch.ones(8, 8, dtype=torch.bool).tril()
    for options in ({"position_ids": positions}, {"cu_seq_lens_q": bounds}):
        out, _ = packed_attention(nn.Module(), query, key, value, **options)
        for row, lengths in enumerate(rows):
            document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
            mask = allowed & (document[:, None] == document[None, :])
            for head in range(4):
                scores = query[row, head] @ key[row, head // 2].T / 4
                expected = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value[row, head // 2]
                torch.testing.assert_close(out[row, :, head], expected, rtol=1e-12, atol=1e-12)


def test_modules_that_are_not_causal():
    module = nn.Module()
    module.is_causal = False
    with pytest.raises(UserError, match="Module is not causal"):
        call(module)


def test_arguments_that_mean_nothing_are_passed_over():
    torch.manual_seed(0)
    plain, weights = call()
    torch.manual_seed(0)
    out, _ = call(
        softcap=None,
        sliding_window=None,
        cu_seq_lens_q=torch.tensor([0, 8, 8, 16, 16]),  # documents without tokens, as padded boundaries have
        attention_mask=torch.ones(2, 8, dtype=torch.int64),
    )
    assert torch.equal(out, plain)
    assert (out.shape, weights) == ((2, 8, 4, 16), None)


def test_scaling_reaches_the_kernel():
    torch.manual_seed(0)
    plain, _ = call()
    torch.manual_seed(0)
    scaled, _ = call(scaling=0.25)  # 1/sqrt(16), the default
    assert torch.allclose(plain, scaled)
    torch.manual_seed(0)
    assert not torch.allclose(plain, call(scaling=1.0)[0])


def test_dropout_that_only_the_math_kernel_has_is_refused():
    with pytest.raises(
        UserError, match=r"sdpa: attention dropout.*would go through the kernel that holds S x S scores"
    ):
        call(dropout=0.9)


def test_a_peft_wrapper_is_switched_inside(batch):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(build("llama", dtype=torch.float32), LoraConfig(target_modules=["q_proj"]))
    assert use_packed_attention(model) is model
    assert model.get_base_model().config._attn_implementation == PACKED
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        stock = run(build("llama", dtype=torch.float32), batch, "positions")
    torch.testing.assert_close(logits, stock, rtol=1e-4, atol=1e-4)


def test_stock_attention_of_the_process_is_untouched():
    use_packed_attention(build("llama"))
    assert build("llama").config._attn_implementation == "sdpa"
    assert transformers.AttentionInterface()["sdpa"] is not packed_attention


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma", "olmo2"])
def test_autocast_reaches_the_kernel(name, batch, monkeypatch):
    """Most models rotate in float32 beside bfloat16 values; half-precision kernels would be refused."""
    seen = []

    def run(states, *arguments):
        seen.append({t.dtype for t in states})
        return BACKENDS["sdpa"].run(states, *arguments)

    def refuses(case):
        return None if case.dtype == torch.bfloat16 else f"half precision only, found {case.dtype}"

    monkeypatch.setitem(BACKENDS, "half", AttentionBackend("half", lambda: None, refuses, run))
    stock = build(name, dtype=torch.float32)
    packed = use_packed_attention(build(name, dtype=torch.float32), "half")
    packed.load_state_dict(stock.state_dict())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = hidden_states(packed, batch)
        assert {*map(frozenset, seen)} == {frozenset({torch.bfloat16})}
        expected = torch.zeros_like(found)
        for row, start, stop in documents(batch):
            ids, positions = batch["input_ids"][row, start:stop], torch.arange(stop - start)
            output = stock.get_decoder()(input_ids=ids[None], position_ids=positions[None], use_cache=False)
            expected[row, start:stop] = output.last_hidden_state[0]
    # both round to 8 bits in each matrix, in another order where a matrix has another number of rows
    assert float((found - expected).float().norm() / expected.float().norm()) < 0.02


def test_autocast_leaves_float64_alone(batch):
    model = use_packed_attention(build("llama"))
    with torch.no_grad():
        expected = hidden_states(model, batch)
        query = torch.randn(1, 4, 8, 16, dtype=torch.float64)
        with torch.autocast("cpu", torch.bfloat16):
            out, _ = packed_attention(
                model.model.layers[0].self_attn, query, query, query, position_ids=torch.arange(8)[None]
            )
    assert out.dtype == expected.dtype == torch.float64
