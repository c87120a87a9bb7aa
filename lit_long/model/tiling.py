"""Position-wise modules (MLP, norms) in tiles of tokens: what they make inside never exists for the whole length.

A gated MLP of width F makes four values of size S x F; a norm of transformers makes two or three copies in float32.
Tiled, the forward keeps nothing but the module's input, and the backward makes one tile again at a time.

How weight gradients stay right wherever they are synchronised: the weights are inputs of one autograd function, and
their gradient leaves it once, summed over the tiles in float32. So hooks of DDP and FSDP2 fire once per module and
backward, as without tiles. (Liger's TiledMLP accumulates into ``.grad`` tile by tile: Liger-Kernel issue #893.)

Under activation checkpointing it costs no extra work: the input is noted by a node of its own in front of the tiles, so
the second run of a layer stops there when nothing behind it needs to be made again.

Shapes: B rows, S tokens, D width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from lit_long.errors import UserError
from lit_long.model.layers import Forward


class _Note(torch.autograd.Function):
    """The identity; its node keeps the input [B, S, D] for the tiles behind it."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden)
        return hidden.view_as(hidden)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class _Tiles(torch.autograd.Function):
    """``run`` over tiles of tokens; weights are arguments so that autograd knows of their gradients."""

    @staticmethod
    def forward(ctx: Any, tiled: "Tiled", tile: int, hidden: torch.Tensor, *weights: nn.Parameter) -> torch.Tensor:
        ctx.tiled, ctx.tile, ctx.weights = tiled, tile, weights
        ctx.note = hidden.grad_fn
        if ctx.note is None:  # frozen embeddings below: no node to keep it
            ctx.save_for_backward(hidden)
        device = hidden.device.type
        ctx.autocast = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
            "cache_enabled": False,  # a cast that is cached without gradients would be used with them later
        }
        with torch.autocast(**ctx.autocast):
            return _run_tiles(tiled.plain, tile, hidden)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (hidden,) = ctx.note.saved_tensors if ctx.note is not None else ctx.saved_tensors
        weights = ctx.tiled.trained()
        if len(weights) != len(ctx.weights) or any(a is not b for a, b in zip(weights, ctx.weights, strict=True)):
            raise RuntimeError(
                f"the weights of {type(ctx.tiled.module).__name__} are not those of its forward; shard whole decoder "
                f"layers (fully_shard(layer)), not the linear layers inside"
            )
        wants_hidden = ctx.needs_input_grad[2]
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        sums: list[torch.Tensor | None] = [None] * len(weights)
        for start in range(0, hidden.shape[1], ctx.tile):
            cut = slice(start, start + ctx.tile)
            with torch.enable_grad(), torch.autocast(**ctx.autocast):
                piece = hidden[:, cut].detach().requires_grad_(wants_hidden)
                output = ctx.tiled.plain(piece)
            sources = [piece, *weights] if wants_hidden else weights
            # a weight may be unused in a tile (experts of a mixture)
            grads = list(
                torch.autograd.grad(output, sources, grad[:, cut], allow_unused=wants_hidden or len(weights) > 1)
            )
            if grad_hidden is not None:
                grad_hidden[:, cut] = grads.pop(0)
            for i, part in enumerate(grads):
                if part is not None:
                    if (before := sums[i]) is None:  # a copy: it may be a view of the gradient that came in
                        sums[i] = part.to(torch.promote_types(part.dtype, torch.float32), copy=True)
                    else:
                        before.add_(part)
        return None, None, grad_hidden, *(s if s is None else s.to(w.dtype) for s, w in zip(sums, weights, strict=True))


def _run_tiles(run: Callable[..., torch.Tensor], tile: int, hidden: torch.Tensor) -> torch.Tensor:
    """``run`` on tiles of ``tile`` tokens of [B, S, D], written into one result."""
    result: torch.Tensor | None = None
    for start in range(0, hidden.shape[1], tile):
        part = run(hidden[:, start : start + tile])
        if result is None:
            result = part.new_empty(*hidden.shape[:2], *part.shape[2:])
        result[:, start : start + tile] = part
    assert result is not None
    return result


class Tiled(Forward):
    """The forward of a position-wise module of one argument [B, S, D], in tiles.

    Args:
        module: the module; see :func:`check_position_wise`.
        tile_size: tokens (over all rows) that are computed at once.
        body: see :class:`~lit_long.model.layers.Forward`.
    """

    def __init__(self, module: nn.Module, tile_size: int, body: Callable[..., Any] | None = None) -> None:
        super().__init__(module, body)
        self.tile_size = tile_size

    def trained(self) -> list[nn.Parameter]:
        """The module's parameters that get a gradient."""
        return [p for p in self.module.parameters() if p.requires_grad]

    @torch.compiler.disable  # autograd inside of a backward is nothing to trace; the tiles themselves may be compiled
    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """[B, S, D] to [B, S, D']."""
        tile = max(1, self.tile_size // hidden.shape[0])
        if hidden.shape[1] <= tile:
            output: torch.Tensor = self.plain(hidden)
            return output
        weights = self.trained()
        if not torch.is_grad_enabled() or not (hidden.requires_grad or weights):
            return _run_tiles(self.plain, tile, hidden)
        for weight in self.module.parameters():
            if isinstance(weight, DTensor):
                raise UserError(
                    f"tiles: the weights of {type(self.module).__name__} are sharded while it runs; shard whole "
                    f"decoder layers (fully_shard(layer)), or set model.levers.tile_size: 0"
                )
        noted = _Note.apply(hidden) if hidden.requires_grad else hidden
        tiles: torch.Tensor = _Tiles.apply(self, tile, noted, *weights)
        return tiles


@torch.no_grad()
def check_position_wise(module: nn.Module, width: int, name: str) -> None:
    """Prove on a probe that a module computes each token from that token alone, and always the same.

    Args:
        module: takes [1, S, width]; on the meta device, a copy of it with random weights is probed.
        width: its input width.
        name: how errors name it.

    Raises:
        UserError: it does not.
    """
    # also dropout that a probe cannot see: an adapter's, whose second matrix is zero at the start
    for path, part in module.named_modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            raise UserError(
                f"{name} ({type(module).__name__}) cannot be run in tiles: it is random ({path or 'it'} is dropout of "
                f"{part.p}), and the backward pass would draw other numbers. {_WAY_OUT}"
            )
    subject = module
    first = next(module.parameters(), None)
    if first is not None and first.is_meta:
        import copy

        subject = copy.deepcopy(module).to_empty(device="cpu")
        for parameter in subject.parameters():
            parameter.normal_(std=0.02)
        first = next(subject.parameters())
    device, dtype = (first.device, first.dtype) if first is not None else (torch.device("cpu"), torch.float32)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(1, 8, width, generator=generator).to(device, dtype)
    run = plain_runner(subject)
    was_training = {part: part.training for part in subject.modules()}
    subject.train()  # as it will run; a model that has just been loaded is in evaluation, where dropout is off
    order = torch.tensor([3, 7, 0, 5, 1, 6, 2, 4], device=device)
    try:
        whole = run(probe)
        if not isinstance(whole, torch.Tensor) or whole.shape[:2] != probe.shape[:2]:
            raise UserError(f"it returns {type(whole).__name__}, not one tensor with a row a token")
        repeated, permuted, cut = run(probe), run(probe[:, order]), run(probe[:, 2:5])
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name} ({type(module).__name__}) cannot be run in tiles: {reason}. {_WAY_OUT}") from error
    finally:
        for part, training in was_training.items():
            part.training = training
    scale = float(whole.abs().max().clamp(min=1e-6))
    tests = {
        "it is random": (repeated, whole),
        "a token's result depends on its place": (permuted, whole[:, order]),
        "a token's result depends on other tokens": (cut, whole[:, 2:5]),
    }
    for reason, (found, expected) in tests.items():
        if not bool(((found - expected).abs() <= 1e-3 * scale).all()):  # also false for NaN
            raise UserError(f"{name} ({type(module).__name__}) cannot be run in tiles: {reason}. {_WAY_OUT}")


_WAY_OUT = "Set model.levers.tile_size: 0"


def plain_runner(module: nn.Module) -> Callable[[torch.Tensor], Any]:
    """The module's own computation, without levers."""
    return Forward(module).plain
