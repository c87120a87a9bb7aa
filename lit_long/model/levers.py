"""Levers of memory and speed that change no result: what there is to set, and how it is put on a model.

Each is a file: :mod:`lit_long.model.checkpointing`, :mod:`lit_long.model.offload`, :mod:`lit_long.model.tiling`,
:mod:`lit_long.model.compiling`. What a run needs is chosen in :mod:`lit_long.model.choose`.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from lit_long.errors import UserError
from lit_long.model.layers import decoder, decoder_layers, take_over


@dataclass(frozen=True, kw_only=True)
class Levers:
    """Memory and speed; none of these changes what is learned.

    Args:
        checkpointing: what is kept of a layer for the backward pass: all (``none``), its input and the outputs of
            attention (``selective``; the rest is computed again), or its input (``full``); ``auto``: what the memory
            asks for.
        checkpoint_every: checkpoint each n-th layer only.
        offload: checkpointed layers' inputs wait in pinned CPU memory, copied while the GPU computes; or ``auto``.
        tile_size: tokens that an MLP or a norm computes at once (0: all); or ``auto``.
        compile: torch.compile each layer in place; attention stays as it is.
    """

    checkpointing: Literal["auto", "none", "full", "selective"] = "auto"
    checkpoint_every: int = 1
    offload: bool | Literal["auto"] = "auto"
    tile_size: int | Literal["auto"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1:
            raise UserError(f"levers.checkpoint_every is {self.checkpoint_every}; it must be 1 or more")
        if self.tile_size != "auto" and self.tile_size < 0:
            raise UserError(f"levers.tile_size is {self.tile_size}; it must be 0 (no tiles), more, or auto")
        if self.offload is True and self.checkpointing == "none":
            raise UserError(
                "levers.offload moves the inputs of checkpointed layers, and levers.checkpointing is none; set it to "
                "selective, full or auto"
            )
        if self.checkpoint_every > 1 and self.checkpointing == "none":
            raise UserError(
                f"levers.checkpoint_every is {self.checkpoint_every}, and levers.checkpointing is none; set it to "
                f"selective, full or auto"
            )

    @property
    def open(self) -> list[str]:
        """Names of the settings that are ``auto``."""
        return [name for name in ("checkpointing", "offload", "tile_size") if getattr(self, name) == "auto"]

    def closed(self) -> "Levers":
        """These, with everything ``auto`` off."""
        off: dict[str, Any] = {"checkpointing": "none", "offload": False, "tile_size": 0}
        off = {name: off[name] for name in self.open}
        if off.get("checkpointing") and (self.offload is True or self.checkpoint_every > 1):
            off["checkpointing"] = "selective"  # what these two settings are of
        return replace(self, **off)

    def __str__(self) -> str:
        parts = [f"checkpointing {self.checkpointing}"]
        if self.checkpoint_every > 1:
            parts[0] += f" of each {self.checkpoint_every}. layer"
        if self.offload is True:
            parts.append("layer inputs on the host")
        if self.tile_size:
            parts.append(f"tiles of {self.tile_size:,} tokens" if self.tile_size != "auto" else "tiles auto")
        return ", ".join([*parts, "compiled layers"] if self.compile else parts)


MLP_NAMES = ("mlp", "feed_forward")
NO_LEVERS = Levers(checkpointing="none", offload=False, tile_size=0)


def apply_levers(model: Any, levers: Levers) -> None:
    """Put levers on a causal LM (bare or in a peft wrapper), in place; before it is sharded, and after LoRA.

    Args:
        model: a transformers causal LM with a list of decoder layers.
        levers: nothing in it may be ``auto``.

    Raises:
        UserError: a setting is still ``auto``, the layers are not found, or a module that is to run in tiles does not
            work position by position (named).
    """
    if levers.open:
        raise UserError(
            f"levers.{levers.open[0]} is auto; set it, or let lit_long.model.choose_levers decide it from length and "
            f"memory"
        )
    if levers == NO_LEVERS:
        return
    layers = decoder_layers(model)
    if levers.tile_size:
        _tile(model, levers)
    bodies: dict[type, Any] = {}
    if levers.compile:
        from lit_long.model.compiling import compiled_forwards

        bodies = compiled_forwards(layers)
    _wrap_layers(layers, levers, bodies)


def recomputed(model: Any, levers: Levers) -> dict[str, float]:
    """What ``levers`` make the backward pass compute again.

    Returns:
        ``layers``: share of the weights in the layers' matrices that tokens are multiplied with once more (at most:
        PyTorch ends the second run where nothing more is needed, mostly before a layer's last matrix);
        ``attention``: share of attention that runs once more, exactly.
    """
    if levers == NO_LEVERS:
        return {"layers": 0.0, "attention": 0.0}
    layers = decoder_layers(model)
    again = total = attention = 0.0
    for index, layer in enumerate(layers):
        weights = sum(p.numel() for p in layer.parameters() if p.ndim > 1)
        mlp = sum(p.numel() for name in MLP_NAMES for p in getattr(layer, name, nn.Module()).parameters() if p.ndim > 1)
        checkpointed = levers.checkpointing != "none" and index % levers.checkpoint_every == 0
        total += weights
        # a tile is made again whether its layer is or not, and only once
        again += weights if checkpointed else mlp if levers.tile_size else 0
        attention += checkpointed and levers.checkpointing == "full"
    return {"layers": again / total, "attention": attention / len(layers)}


def _wrap_layers(layers: list[nn.Module], levers: Levers, bodies: dict[type, Any]) -> None:
    from lit_long.model.checkpointing import Checkpointed
    from lit_long.model.layers import Forward
    from lit_long.model.offload import HostStore

    store = HostStore() if levers.offload else None
    for index, layer in enumerate(layers):
        body = bodies.get(type(layer))
        if levers.checkpointing != "none" and index % levers.checkpoint_every == 0:
            selective = levers.checkpointing == "selective"
            take_over(Checkpointed(layer, body, selective=selective, store=store))
        elif body is not None:
            take_over(Forward(layer, body))


def tiled_parts(model: Any, levers: Levers) -> list[nn.Module]:
    """What runs in tiles: MLPs and norms of the layers, and the last norm; proved to work position by position.

    Raises:
        UserError: one does not (named), or a layer has no MLP by a known name.
    """
    from lit_long.model.tiling import check_position_wise

    layers = decoder_layers(model)
    width = int(model.get_input_embeddings().weight.shape[1])
    found = [(f"layer {i}: {name}", part) for i, layer in enumerate(layers) for name, part in layer.named_children()]
    mlps = [(name, part) for name, part in found if name.split(": ")[1] in MLP_NAMES]
    if len(mlps) < len(layers):
        kinds = sorted({f"{n} ({type(m).__name__})" for n, m in layers[0].named_children()})
        raise UserError(
            f"levers.tile_size: {len(layers) - len(mlps)} of {len(layers)} layers have no module named mlp; the first "
            f"layer has {kinds}. Set model.levers.tile_size: 0"
        )
    norms = [] if levers.compile else [(name, part) for name, part in found if _is_norm(part)]
    norms += [(f"last norm {name}", part) for name, part in decoder(model).named_children() if _is_norm(part)]
    proved = set()
    for name, part in mlps + norms:
        kind = (type(part), tuple((n, type(m)) for n, m in part.named_modules()), _shapes(part))
        if kind not in proved:  # layers are alike; one of a kind is enough
            check_position_wise(part, width, name)
            proved.add(kind)
    return [part for _, part in mlps + norms]


def _tile(model: Any, levers: Levers) -> None:
    from lit_long.model.tiling import Tiled

    assert isinstance(levers.tile_size, int)
    parts = tiled_parts(model, levers)
    bodies: dict[type, Any] = {}
    if levers.compile:
        from lit_long.model.compiling import compiled_forwards

        bodies = compiled_forwards([part for part in parts if not _is_norm(part)])
    for part in parts:
        take_over(Tiled(part, levers.tile_size, bodies.get(type(part))))


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _shapes(module: nn.Module) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(p.shape) for p in module.parameters())
