"""Attention over ranks equals attention on one process, in float64: every model, any documents, any number of ranks."""

from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.attention import use_packed_attention
from lit_long.attention.packed import set_exchange
from lit_long.errors import UserError
from lit_long.model.forward import next_token_loss
from lit_long.model.levers import Levers, apply_levers
from lit_long.parallel.exchange import GatherExchange
from lit_long.parallel.split import split_batch
from tests.gloo import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = {
    "vocab_size": 97, "hidden_size": 60, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 12,
    "max_position_embeddings": 1024, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
DOCUMENTS = {"one": [101], "short": [5, 1, 60, 35], "mixed": [300, 2, 17, 1, 1], "fewer tokens than ranks": [2, 1]}


def build(kind, heads, kv_heads, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE, num_attention_heads=heads, num_key_value_heads=kv_heads, **options)
    return use_packed_attention(AutoModelForCausalLM.from_config(config)).double()


def batch(lengths, rows=1, weights=False):
    generator = torch.Generator().manual_seed(1)
    ids, targets = torch.randint(3, 97, (2, rows, sum(lengths)), generator=generator)
    targets[:, ::7] = -100
    found = {
        "input_ids": ids,
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None].repeat(rows, 1),
        "target_ids": targets,
    }
    if weights:
        found["target_weights"] = torch.rand(rows, sum(lengths), generator=generator)
    return found


def stock(model, batch):
    """Gradients of stock transformers on each document alone: no packing, no ranks."""
    model.set_attn_implementation("sdpa")  # eager takes its softmax in float32
    total = 0.0
    for row in range(batch["input_ids"].shape[0]):
        positions = batch["position_ids"].expand(batch["input_ids"].shape)
        starts = [*(positions[row] == 0).nonzero().flatten().tolist(), batch["input_ids"].shape[1]]
        for begin, stop in pairwise(starts):
            logits = model(batch["input_ids"][row : row + 1, begin:stop]).logits[0]
            losses = torch.nn.functional.cross_entropy(logits, batch["target_ids"][row, begin:stop], reduction="none")
            if "target_weights" in batch:
                losses = losses * batch["target_weights"][row, begin:stop]
            total = total + losses.sum()
    total.backward()
    return total.detach(), [p.grad for p in model.parameters()]


def share_of(rank, model, whole, levers):
    model = build(*model[:3], **model[3])
    if levers:
        apply_levers(model, Levers(offload=False, **levers))
    share, layout = split_batch(whole, dist.group.WORLD)
    set_exchange(model, GatherExchange(layout, dist.group.WORLD, share["position_ids"]))
    loss = next_token_loss(model, share).loss
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    for tensor in (loss := loss.detach(), *gradients):
        dist.all_reduce(tensor)
    return [loss, *gradients]


def compare(tmp_path, ranks, model, whole, levers=None):
    loss, gradients = stock(build(*model[:3], **model[3]), whole)
    for found in run_ranks(share_of, tmp_path, model, whole, levers, ranks=ranks):
        assert float(found[0]) == pytest.approx(float(loss), rel=1e-11)
        for got, expected in zip(found[1:], gradients, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_documents(tmp_path, ranks, name):
    compare(tmp_path, ranks, ("llama", 4, 1, {}), batch(DOCUMENTS[name], rows=2, weights=True))


def test_rows_may_share_their_positions(tmp_path):
    whole = batch([30, 11], rows=3)
    compare(tmp_path, 2, ("llama", 4, 2, {}), {**whole, "position_ids": whole["position_ids"][:1]})


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "smollm3", "olmo2", "granite", "phi3"])
def test_models(tmp_path, kind):
    options = {"sliding_window": None} if kind in ("mistral", "phi3") else {}
    compare(tmp_path, 3, (kind, 4, 2, options), batch(DOCUMENTS["mixed"]))


@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (5, 1), (6, 2)])
def test_heads_limit_nothing(tmp_path, heads, kv_heads):
    compare(tmp_path, 4, ("llama", heads, kv_heads, {"tie_word_embeddings": True}), batch([77, 40, 3]))


@pytest.mark.parametrize(
    "levers", [{"checkpointing": "full", "tile_size": 0}, {"checkpointing": "selective", "tile_size": 16}]
)
def test_activation_checkpointing(tmp_path, levers):
    compare(tmp_path, 2, ("llama", 4, 2, {}), batch(DOCUMENTS["mixed"]), levers)


def counted(rank, whole):
    """Collectives of a forward and backward pass with attention's outputs kept."""
    counts = []
    for levers in (None, {"checkpointing": "selective", "tile_size": 0}, {"checkpointing": "full", "tile_size": 0}):
        model = build("llama", 4, 2)
        if levers:
            apply_levers(model, Levers(offload=False, **levers))
        share, layout = split_batch(whole, dist.group.WORLD)
        exchange = GatherExchange(layout, dist.group.WORLD, share["position_ids"])
        calls, gather = [], exchange.gather
        exchange.gather = lambda *states, calls=calls, gather=gather: (calls.append(1), gather(*states))[1]
        set_exchange(model, exchange)
        next_token_loss(model, share).loss.backward()
        counts.append(len(calls))
    return torch.tensor(counts)


def test_kept_attention_gathers_nothing_a_third_time(tmp_path):
    layers = SHAPE["num_hidden_layers"]
    for counts in run_ranks(counted, tmp_path, batch([64])):
        assert counts.tolist() == [2 * layers, 2 * layers, 3 * layers]


def test_another_batch_is_whole_again():
    model = build("llama", 4, 2)
    ids, positions = torch.arange(3, 13)[None], torch.arange(10)[None]
    expected = model(ids, position_ids=positions).logits

    class Elsewhere:
        position_ids = torch.arange(5, 15)[None]

        def attend(self, *_):
            raise AssertionError("a probe's batch is not the one that was split")

    assert set_exchange(model, Elsewhere()) == 1
    assert torch.equal(model(ids, position_ids=positions).logits, expected)


@pytest.mark.parametrize("name", ["labels", "attention_mask"])
def test_what_cannot_be_cut_is_refused(name):
    with pytest.raises(UserError, match=name):
        split_batch({**batch([8]), name: torch.ones(1, 8)}, None)


def test_positions_and_boundaries_are_asked_for():
    with pytest.raises(UserError, match="no position_ids"):
        split_batch({"input_ids": torch.ones(1, 8)}, None)
    with pytest.raises(UserError, match=r"position_ids is \[3, 8\]; it must be \[2 or 1, 8\]"):
        split_batch({"input_ids": torch.ones(2, 8), "position_ids": torch.ones(3, 8)}, None)
    with pytest.raises(UserError, match="must cover 1 x 8"):
        split_batch({**batch([8]), "cu_seqlens": torch.tensor([0, 7])}, None)
