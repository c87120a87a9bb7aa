"""One optimizer step of a small model of a family, on one process and on a mesh: is it the same step?

Both in float64 on this machine's CPU, so that what differs is the parallelism and not the rounding.
"""

import socket
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from lit_long.attention import use_packed_attention
from lit_long.attention.packed import set_exchange
from lit_long.errors import UserError
from lit_long.model.forward import next_token_loss
from lit_long.model.levers import Levers, apply_levers
from lit_long.model.lora import LoraSettings, add_lora
from lit_long.parallel.exchange import GatherExchange
from lit_long.parallel.mesh import make_meshes
from lit_long.parallel.sharding import Sharding, shard_model
from lit_long.parallel.split import split_batch

LIMIT = 1e-7  # relative; float64 rounding gives 1e-12 and less, a wrong scale or a lost document 1e-3 and more
_LENGTHS = (61, 3, 140, 1, 24)  # of the documents of each row; divisible by nothing
_PROCESSES = 8  # at most


@dataclass(frozen=True)
class ParityReport:
    """Largest relative differences of a step on a mesh from one on one process.

    Attributes:
        mesh: (data-parallel, context-parallel) ranks that were tried.
        loss: of the loss.
        gradient_norm: of the norm of all gradients.
        weights: of the updated weights: the largest difference of a tensor by its largest number.
    """

    mesh: tuple[int, int]
    loss: float
    gradient_norm: float
    weights: float

    @property
    def passed(self) -> bool:
        """Whether that is rounding."""
        return max(self.loss, self.gradient_norm, self.weights) < LIMIT

    def __str__(self) -> str:
        return (
            f"a small model of this family on {self.mesh[0]} x {self.mesh[1]} (data x context) processes against one, "
            f"float64: loss differs by {self.loss:.1e}, gradient norm by {self.gradient_norm:.1e}, updated weights by "
            f"{self.weights:.1e} (limit {LIMIT:.0e})"
        )


def check_parity(
    config: Any, mesh: tuple[int, int], *, lora: LoraSettings | None = None, levers: Levers | None = None
) -> ParityReport:
    """Compare a step of a small model like ``config``'s on processes of this machine with one on one process.

    Args:
        config: transformers config of the family.
        mesh: (data-parallel, context-parallel) ranks of the real run; tried with at most 2 x 4.
        lora: adapters of the real run.
        levers: checkpointing and tiles of the real run.

    Raises:
        UserError: the processes did not come to an end.
    """
    if dist.is_initialized() or torch.cuda.is_initialized():
        # processes of a running job cannot join another, nor be forked with a GPU: from a fresh one
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            return fresh.submit(check_parity, config, mesh, lora=lora, levers=levers).result()
    small = small_config(config)
    data, context = min(mesh[0], 2), min(mesh[1], _PROCESSES // 2)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "mesh.pt"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        try:
            torch.multiprocessing.start_processes(
                _rank,
                (small, (data, context), lora, levers, port, str(place)),
                nprocs=data * context,
                start_method="fork",
            )
        except Exception as error:
            lines = [line for line in str(error).splitlines() if line.strip()]
            raise UserError(f"parity: a process failed: {lines[-1] if lines else error}") from error
        found = torch.load(place, weights_only=True)
    expected = _step(small, lora, None, None)

    def off(name: str) -> float:
        scale = float(expected[name].abs().max())
        return float((found[name] - expected[name]).abs().max()) / max(scale, 1e-30)

    weights = max(off(name) for name in expected if name not in ("loss", "norm"))
    return ParityReport((data, context), off("loss"), off("norm"), weights)


def small_config(config: Any) -> Any:
    """A config of the same type with two layers, few heads (in the same groups) and a small vocabulary."""
    small = deepcopy(config)
    small._attn_implementation = "sdpa"  # ours is registered where it is switched on
    heads = int(small.num_attention_heads)
    groups = max(1, heads // int(getattr(small, "num_key_value_heads", None) or heads))
    groups = min(groups, 4)
    kv_heads = 1 if int(getattr(small, "num_key_value_heads", None) or heads) == 1 else 2
    values: dict[str, Any] = {
        "num_hidden_layers": 2, "num_attention_heads": groups * kv_heads, "num_key_value_heads": kv_heads,
        "head_dim": 16, "hidden_size": groups * kv_heads * 16, "intermediate_size": 96, "vocab_size": 128,
        "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 0, "use_cache": False, "attention_dropout": 0.0,
    }  # fmt: skip
    for name, value in values.items():
        if hasattr(small, name):
            setattr(small, name, value)
    if isinstance(getattr(small, "layer_types", None), list):
        small.layer_types = small.layer_types[:2]
    if isinstance(getattr(small, "no_rope_layers", None), list):
        small.no_rope_layers = small.no_rope_layers[:2]
    return small


def _rows(count: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(3)
    positions = torch.cat([torch.arange(length) for length in _LENGTHS])[None]
    rows = []
    for _ in range(count):
        ids, targets = torch.randint(128, (2, 1, sum(_LENGTHS)), generator=generator)
        targets[:, : _LENGTHS[0]] = -100  # a rank without targets, perhaps
        rows.append({"input_ids": ids, "position_ids": positions.clone(), "target_ids": targets})
    return rows


def _step(
    config: Any, lora: LoraSettings | None, levers: Levers | None, mesh: tuple[int, int] | None
) -> dict[str, torch.Tensor]:
    """Loss, gradient norm and updated weights of a step over two rows."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(1)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        use_packed_attention(model)
        if lora is not None:
            model = add_lora(model, lora)
    model = model.double().train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(2))
    rows, world = _rows(2), 1
    weight = sum(int((row["target_ids"] != -100).sum()) for row in rows)
    meshes = None
    if mesh is not None:
        world = mesh[0] * mesh[1]
        meshes = make_meshes("cpu", world, data_parallel=mesh[0], context=mesh[1], replicate=1)
        if levers is not None:
            apply_levers(model, levers)
        shard_model(model, Sharding(mesh=meshes.shard, device=torch.device("cpu"), context=mesh[1]))
        rows = rows[meshes.data["data_parallel"].get_local_rank() :: mesh[0]]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        if meshes is not None:
            group = meshes.data["context_parallel"].get_group()
            row, layout = split_batch(row, group)
            set_exchange(model, GatherExchange(layout, group, row["position_ids"]))
        loss = next_token_loss(model, row).loss / weight
        (loss * world).backward()
        total += loss.detach()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    optimizer.step()
    if mesh is not None:
        dist.all_reduce(total)

    def whole(tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()

    trained = {name: whole(p) for name, p in model.named_parameters() if p.requires_grad}
    return {"loss": total, "norm": whole(norm), **trained}


def _rank(
    rank: int,
    config: Any,
    mesh: tuple[int, int],
    lora: LoraSettings | None,
    levers: Levers | None,
    port: int,
    place: str,
) -> None:
    torch.set_num_threads(1)
    # not by environment variables: those are of the run that asks
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=mesh[0] * mesh[1])
    try:
        found = _step(config, lora, levers, mesh)
        if rank == 0:
            torch.save(found, place)
    finally:
        dist.destroy_process_group()
