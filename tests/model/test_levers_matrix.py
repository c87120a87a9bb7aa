"""Levers x {full, LoRA} x {one process, two ranks of FSDP2, DDP or context parallelism} x {float32, bfloat16}: the loss
and every gradient.

The reference of each cell is the plain run of the same precision and weights. On two ranks each takes half of the rows
(with context parallelism half of each row), and its gradients, gathered, are those of one process on all of them.

Bounds: checkpointing and offload repeat the very operations, so they are bit-equal. Tiles change the order of sums:
1e-6 in float32; in bfloat16 a weight gradient is rounded tile by tile, with 2^-8 each: 1e-2 of the gradient's norm.
"""

import json
import os
import socket
import traceback
from pathlib import Path

import pytest
import torch
from tiny_runs import LORA, tiny_model, worst

from lit_long.attention.packed import set_exchange
from lit_long.data import TokenCorpus
from lit_long.model.forward import next_token_loss
from lit_long.model.layers import decoder_layers
from lit_long.model.levers import NO_LEVERS, Levers
from lit_long.parallel.exchange import GatherExchange
from lit_long.parallel.mesh import make_meshes
from lit_long.parallel.sharding import Sharding, shard_model
from lit_long.parallel.split import split_batch

ROWS, LENGTH = 4, 64
EXACT, FLOAT32, BFLOAT16 = 0.0, 1e-6, 1e-2


def levers(checkpointing="none", **options):
    return Levers(**{"checkpointing": checkpointing, "offload": False, "tile_size": 0} | options)


LEVERS = {
    "full": levers("full"),
    "every 2": levers("full", checkpoint_every=2),
    "selective": levers("selective"),
    "offload": levers("full", offload=True),
    "tiles": levers(tile_size=24),
    "all": levers("selective", offload=True, tile_size=24),
}
ADAPTERS = {"full training": None, "lora": LORA}
# autocast of one process; on sharded weights also FSDP2's own casting
PRECISIONS = {
    "one process": ("float32", "autocast"),
    "fsdp2": ("float32", "autocast", "policy"),
    "ddp": ("float32", "autocast"),
    "context": ("float32", "autocast", "policy"),
}


def corpus_batch(corpus_dir):
    """Rows of real text in which documents end at different places."""
    tokens = torch.tensor(TokenCorpus(corpus_dir).document(0)[: ROWS * LENGTH + 1]).long()
    rows = [torch.cat([torch.arange(cut), torch.arange(LENGTH - cut)]) for cut in (10, 30, 0, 45)]
    return {
        "input_ids": tokens[:-1].view(ROWS, LENGTH),
        "target_ids": tokens[1:].view(ROWS, LENGTH),
        "position_ids": torch.stack(rows),
    }


def gradients(model, batch, precision):
    """Loss and gradients; both are sums over the rows, so that ranks add up."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast", cache_enabled=False):
        loss = next_token_loss(model, batch, chunk_size=48).loss / (ROWS * LENGTH)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def bound(name, precision):
    if "tiles" not in name and name != "all":
        return EXACT
    return FLOAT32 if precision == "float32" else BFLOAT16


@pytest.mark.parametrize("precision", PRECISIONS["one process"])
@pytest.mark.parametrize("adapters", ADAPTERS)
def test_one_process(tiny_config, corpus_dir, adapters, precision):
    batch = corpus_batch(corpus_dir)
    expected = gradients(tiny_model(tiny_config, lora=ADAPTERS[adapters]), batch, precision)
    assert all(bool(grad.abs().max() > 0) for grad in expected[1].values())
    for name, setting in LEVERS.items():
        found = gradients(tiny_model(tiny_config, lora=ADAPTERS[adapters], levers=setting), batch, precision)
        allowed = bound(name, precision)
        assert abs(float(found[0] - expected[0])) <= allowed * float(expected[0]), name
        assert worst(found[1], expected[1]) <= allowed, name


class _Whole(torch.nn.Module):
    """The loss as the forward of one module, where DDP sees the end of it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return next_token_loss(self.model, batch, chunk_size=48).loss


def _shard(model, precision):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy()
    if precision == "policy":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in decoder_layers(model):
        fully_shard(layer, mp_policy=policy)
    fully_shard(model, mp_policy=policy)


def _split(model, precision, batch):
    """Shard the model over both ranks and return this rank's half of every row."""
    meshes = make_meshes("cpu", 2, data_parallel=1, context=2, replicate=1)
    dtype = "bfloat16" if precision == "policy" else "float32"
    shard_model(model, Sharding(mesh=meshes.shard, device=torch.device("cpu"), context=2, param_dtype=dtype))
    group = meshes.data["context_parallel"].get_group()
    mine, layout = split_batch(dict(batch), group)
    set_exchange(model, GatherExchange(layout, group, mine["position_ids"]))
    return mine


def _two_ranks(strategy, config, lora, setting, precision, batch):
    """Loss and whole gradients of both ranks' rows."""
    model = tiny_model(config, lora=lora, levers=setting)
    run, sharded = _Whole(model), strategy != "ddp"
    rank = torch.distributed.get_rank()
    mine = {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()}
    if strategy == "context":
        mine = _split(model, precision, batch)
    elif sharded:
        _shard(model, precision)
    else:
        run = torch.nn.parallel.DistributedDataParallel(run)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast", cache_enabled=False):
        loss = run(mine) / (ROWS * LENGTH) * 2  # both take the mean over ranks
    loss.backward()
    total = loss.detach() / 2
    torch.distributed.all_reduce(total)
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return total, {name: g.full_tensor() if sharded else g for name, g in grads.items()}


def _rank(rank, port, config, corpus, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    batch, found = corpus_batch(corpus), {}
    try:
        for adapters, lora in ADAPTERS.items():
            whole = gradients(tiny_model(config, lora=lora), batch, "float32")
            for strategy in ("fsdp2", "ddp", "context"):
                for precision in PRECISIONS[strategy]:
                    plain = _two_ranks(strategy, config, lora, NO_LEVERS, precision, batch)
                    found[f"{adapters}/{strategy}/{precision}/plain"] = _distance(plain, whole)
                    for name, setting in LEVERS.items():
                        one = _two_ranks(strategy, config, lora, setting, precision, batch)
                        found[f"{adapters}/{strategy}/{precision}/{name}"] = _distance(one, plain)
    except Exception:
        found = {"error": traceback.format_exc()}
    if rank == 0 or "error" in found:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def _distance(found, expected):
    return abs(float(found[0] - expected[0])) / float(expected[0]), worst(found[1], expected[1])


def test_two_ranks(tiny_config, corpus_dir, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _rank, (port, tiny_config, str(corpus_dir), str(tmp_path)), nprocs=2, start_method="fork"
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert "error" not in found, found["error"]
    precisions = sum(len(PRECISIONS[strategy]) for strategy in ("fsdp2", "ddp", "context"))
    assert len(found) == len(ADAPTERS) * precisions * (1 + len(LEVERS))
    for cell, (loss, gradient) in found.items():
        _, _, precision, name = cell.split("/")
        allowed = bound(name, precision)
        if name == "plain":  # against one process in float32
            allowed = 1e-6 if precision == "float32" else 3e-2
        assert loss <= allowed, (cell, loss)
        assert gradient <= allowed, (cell, gradient)
