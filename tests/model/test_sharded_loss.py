"""The loss of a model sharded with FSDP2 over two ranks against the whole model in one process."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from lit_long.attention import use_packed_attention
from lit_long.data import TokenCorpus
from lit_long.model import LoraSettings
from lit_long.model.forward import next_token_loss, unwrapped
from lit_long.model.lora import add_lora
from lit_long.model.output_layer import check_output_layer
from tests.data.fakes import packed_at
from tests.gloo import run_ranks
from tests.model.test_forward import build


def model_of(lora, tied):
    torch.manual_seed(0)
    model = use_packed_attention(build("llama", vocab_size=4096, tie_word_embeddings=tied, num_key_value_heads=2))
    if lora:
        model = add_lora(model, LoraSettings(r=2, train_embeddings=lora != "frozen head"))
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.01)
    return model.train()


def gradients(model, batches, world_size):
    """Sums over this rank's batches, then gradients; FSDP2 averages over ranks, so the world is multiplied back."""
    losses = []
    for batch in batches:
        sums = next_token_loss(model, batch, chunk_size=7, z_loss=1e-3)
        (sums.loss / batch["step_target_weight"] * world_size).backward()
        losses.append(torch.stack([sums.loss.detach(), sums.weight]))
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return torch.stack(losses), {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in grads.items()}


def sharded(rank, batches, lora, tied, mixed):
    model = model_of(lora, tied)
    options = {"mesh": init_device_mesh("cpu", (2,))}
    if mixed:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in unwrapped(model).get_decoder().layers:
        fully_shard(layer, **options)
    fully_shard(model, **options)
    difference = check_output_layer(model)
    losses, grads = gradients(model, batches[rank::2], 2)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return {"losses": losses, "grads": grads, "difference": difference}


@pytest.fixture
def batches(corpus_dir):
    corpus = TokenCorpus(corpus_dir)
    starts = [int(corpus.starts[1]) - 20, corpus.tokens - 200, 0, 333]
    found = [packed_at(corpus, [start], 48, weight=1.0) for start in starts]
    found[2]["target_ids"][:] = -100  # a rank without any target in one of its micro-batches
    weight = float(sum((batch["target_ids"] != -100).sum() for batch in found))
    return [batch | {"step_target_weight": weight} for batch in found]


@pytest.mark.parametrize(
    ("lora", "tied"),
    [(False, False), (False, True), (True, False), (True, True), ("frozen head", False), ("frozen head", True)],
)
@pytest.mark.parametrize("mixed", [False, True])
def test_two_ranks_equal_one_process(batches, lora, tied, mixed, tmp_path):
    model = model_of(lora, tied)
    losses, grads = gradients(model, batches, 1)
    ranks = run_ranks(sharded, tmp_path, batches, lora, tied, mixed)
    assert all(rank["difference"] < (0.02 if mixed else 1e-5) for rank in ranks)
    found = torch.empty_like(losses)
    found[0::2], found[1::2] = ranks[0]["losses"], ranks[1]["losses"]
    torch.testing.assert_close(found, losses, rtol=2e-3 if mixed else 1e-6, atol=1e-4)
    assert ranks[0]["grads"].keys() == grads.keys()
    for name, grad in grads.items():
        error = (ranks[0]["grads"][name] - grad).norm() / grad.norm()
        assert error < (0.03 if mixed else 1e-5), f"{name}: {error}"
