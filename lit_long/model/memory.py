"""Bytes of device memory that a training step needs, term by term.

What is there all the time (P parameters, P' of them trained):

- weights ``4 P`` (they are float32 in every precision that lit-long allows);
- gradients ``4 P'``;
- optimizer ``8 P'`` for AdamW's moments, ``2 P'`` with 8-bit states, 0 with states on the host.

What a step adds, for N = B S tokens of a micro-batch, in layers of width D with MLPs of width F, query heads of H d and
key/value heads of K d numbers; r bytes a number of the residual stream, c of what matrices take and give, n of a norm's
insides, q and m copies of what the attention's and the MLP's matrices take (under autocast each matrix casts its own):

- a layer keeps ``N (2 n D + (q + m) c D + (3 H d + 2 K d) c + 4 F c + 4 H + 8)`` of its forward: what autograd saves
  of two norms, of q, k and v, of attention's result (for the kernel, and joined again for the output matrix) and
  log-sum-exp, of gate, its activation, up and their product; under autocast also 2 bytes for each weight of its
  matrices. Exact for Llama's shape (``tests/model/test_memory.py`` counts it in PyTorch), near for its relatives;
- a checkpointed layer keeps ``N r D``, its input, and with ``selective`` ``N (H d c + 4 H)``, attention's outputs, too;
- with ``offload`` the inputs are on the host, four of them on the device: two that leave, one in use, one that comes;
- while a checkpointed layer is in its backward, one layer is there whole, with two gradients of width F and three of
  width D on their way (and one of a weight). In tiles of T tokens, the insides of MLP and norms are there for T tokens;
- the last norm and the loss: the last hidden state, its norm and the gradient, and twice a chunk's logits in float32;
  under autocast the output matrix once more, and if it is trained its gradient, twice.

Gradients grow in a step's only micro-batch while what the forward kept goes; with several, those of the others are
there from the beginning (``accumulates``).

Sharded over M ranks (FSDP2), weights, gradients and optimizer are an M-th each, and beside them are gathered: two
layers (one computes, one is on its way; all of them where they are kept after the forward) and the root (embeddings,
output layer), in what matrices take. With c context
ranks, N is a rank's share, and a layer's exchange holds keys and values of all N c tokens three times (as they came, in
order, their gradients): ``6 N c K d`` numbers.

Not counted: the framework itself (CUDA context, workspaces, fragments: what :data:`RESERVE` leaves is for it), batches.
"""

from dataclasses import dataclass
from typing import Any

import torch

from lit_long.loss.chunked import default_chunk_size
from lit_long.model.layers import decoder_layers
from lit_long.model.levers import MLP_NAMES, Levers

RESERVE = 0.9  # share of a device's memory that is planned with
_IN_FLIGHT = 4  # layer inputs on the device with offload
_STATE_BYTES = {"float32": 8, "8bit": 2, "host": 0}


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Bytes, and copies, in a precision; the letters of the module's formulas."""

    residual: int
    compute: int
    norm: int
    query_inputs: int
    mlp_inputs: int
    cast_weights: int


PRECISIONS = {
    "32-true": Precision(residual=4, compute=4, norm=8, query_inputs=1, mlp_inputs=1, cast_weights=0),
    "bf16-mixed": Precision(residual=4, compute=2, norm=8, query_inputs=3, mlp_inputs=2, cast_weights=2),
    # sharded, float32 weights gathered in bfloat16 (FSDP2's MixedPrecisionPolicy)
    "bf16-gathered": Precision(residual=2, compute=2, norm=6, query_inputs=1, mlp_inputs=1, cast_weights=0),
}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What memory depends on of a model.

    Attributes:
        layers: decoder layers.
        hidden: D.
        intermediate: F; of a mixture of experts, of all experts that a token is sent to.
        heads: H.
        query_width: H d.
        key_width: K d.
        vocabulary: rows of the output matrix.
        parameters: all.
        trained: those with a gradient.
        layer_parameters: those of a layer.
        head_trained: the output matrix has a gradient.
        mlp_trained: a matrix of the MLPs has; without, autograd keeps neither their inputs nor that of their last one.
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    query_width: int
    key_width: int
    vocabulary: int
    parameters: int
    trained: int
    layer_parameters: int
    head_trained: bool
    mlp_trained: bool = True

    @classmethod
    def of(cls, model: Any) -> "ModelFacts":
        """Of a causal LM on any device (meta, too), bare or in a peft wrapper.

        Raises:
            UserError: see :func:`lit_long.model.layers.decoder_layers`.
        """
        inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        config, layers = inner.config.get_text_config(), decoder_layers(model)
        heads = int(config.num_attention_heads)
        head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        experts = getattr(config, "num_experts_per_tok", None) or 1
        width = getattr(config, "moe_intermediate_size", None) or getattr(config, "intermediate_size", None)
        head = inner.get_output_embeddings().weight
        return cls(
            layers=len(layers),
            hidden=int(config.hidden_size),
            intermediate=int(width or 4 * config.hidden_size) * int(experts),
            heads=heads,
            query_width=heads * head_dim,
            key_width=int(getattr(config, "num_key_value_heads", None) or heads) * head_dim,
            vocabulary=int(head.shape[0]),
            parameters=sum(p.numel() for p in model.parameters()),
            trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
            layer_parameters=sum(p.numel() for p in layers[0].parameters()),
            head_trained=bool(head.requires_grad),
            mlp_trained=_mlp_trained(layers[0]),
        )


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What memory depends on of a run, for one device.

    Attributes:
        sequence_length: tokens of a row.
        micro_batch: rows at once.
        memory: bytes of the device.
        device_type: ``cuda`` or ``cpu``.
        precision: a key of :data:`PRECISIONS`.
        optimizer_states: as in :class:`lit_long.optim.OptimizerSettings`.
        loss_chunk_size: tokens whose logits exist at once; None: the loss's own choice.
        shards: ranks that parameters are sharded over; None: they are whole.
        context: ranks that share a row; ``sequence_length`` is a rank's share.
        accumulates: a step has several micro-batches on a device.
        resharded: a layer's gathered parameters are freed after its forward pass.
        parameters_on_host: shards of weights, gradients and optimizer states are in CPU memory (FSDP2's offload).
    """

    sequence_length: int
    memory: int
    micro_batch: int = 1
    device_type: str = "cuda"
    precision: str = "32-true"
    optimizer_states: str = "float32"
    loss_chunk_size: int | None = None
    shards: int | None = None
    context: int = 1
    accumulates: bool = True
    resharded: bool = True
    parameters_on_host: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.sequence_length * self.micro_batch


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes by term; the module says what is in each.

    Attributes:
        weights: on the device.
        gradients: on the device.
        optimizer: on the device.
        kept: of all layers' forward, until their backward.
        live: beside it while a layer is in its backward.
        loss: beside it while the loss is computed.
        host: in pinned CPU memory.
        gathered: part of ``weights``: parameters gathered from other ranks.
        accumulates: whether gradients are there from the beginning of a micro-batch.
    """

    weights: int
    gradients: int
    optimizer: int
    kept: int
    live: int
    loss: int
    host: int
    gathered: int = 0
    accumulates: bool = True

    @property
    def activations(self) -> int:
        """What a step adds at its highest."""
        return self.kept + max(self.live, self.loss)

    @property
    def total(self) -> int:
        """Bytes of the device at the highest point."""
        if self.accumulates:
            step = self.gradients + self.activations
        else:  # linear in between: the highest point is at one of the ends of the backward pass
            step = max(self.activations, self.gradients + self.live)
        return self.weights + self.optimizer + step

    def __str__(self) -> str:
        parts = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        parts["activations"] = self.activations
        terms = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in parts.items())
        terms += ", not all at once" if sum(parts.values()) > self.total else ""
        return f"{self.total / 1e9:.2f} GB ({terms}{f'; on the host {self.host / 1e9:.2f}' if self.host else ''})"


def layer_bytes(model: ModelFacts, precision: Precision) -> tuple[int, int, int]:
    """Bytes a token that autograd keeps of one whole layer: in its MLP, in its norms, in the rest."""
    p = precision
    mlp = (4 if model.mlp_trained else 3) * model.intermediate * p.compute
    norms = 2 * p.norm * model.hidden
    inputs = (p.query_inputs + mlp_inputs(model, p)) * p.compute * model.hidden
    attention = (3 * model.query_width + 2 * model.key_width) * p.compute + 4 * model.heads
    return mlp, norms, inputs + attention + 8


def mlp_inputs(model: ModelFacts, precision: Precision) -> int:
    """Copies of the MLP's input that autograd keeps: for gradients of its matrices, so none where these are frozen."""
    return precision.mlp_inputs if model.mlp_trained else 0


def _mlp_trained(layer: Any) -> bool:
    blocks = [getattr(layer, name) for name in MLP_NAMES if hasattr(layer, name)]
    if not blocks:
        return True
    return any(p.requires_grad and p.ndim > 1 for block in blocks for p in block.parameters())


def estimate(model: ModelFacts, run: RunFacts, levers: Levers) -> MemoryEstimate:
    """Bytes of one training step with ``levers`` (nothing in it ``auto``)."""
    assert not levers.open, levers
    assert isinstance(levers.tile_size, int)
    p, n, d = PRECISIONS[run.precision], run.tokens, model.hidden
    tile = min(levers.tile_size, n) if levers.tile_size else n
    tiled = tile < n
    mlp, norms, rest = layer_bytes(model, p)
    if tiled:  # of the MLP its input, before it is cast; of a norm its input
        mlp, norms, rest = p.residual * d, 2 * p.residual * d, rest - mlp_inputs(model, p) * p.compute * d
    cast = p.cast_weights * model.layer_parameters
    whole = (mlp + norms + rest) * n + cast
    checkpointed = 0 if levers.checkpointing == "none" else -(-model.layers // levers.checkpoint_every)
    inputs = p.residual * d * n
    outputs = (model.query_width * p.compute + 4 * model.heads) * n if levers.checkpointing == "selective" else 0
    on_device = min(checkpointed, _IN_FLIGHT) if levers.offload else checkpointed
    kept = (model.layers - checkpointed) * whole + on_device * inputs + checkpointed * outputs
    # gradients on their way through the layer, and what a tile makes inside, forward and backward
    way = 3 * d * p.residual * n + (2 * model.intermediate * p.compute * (tile if tiled else n))
    # of a tile of the MLP, or of a norm: never both at once
    inside = max(layer_bytes(model, p)[0] + 3 * model.intermediate * p.compute, 4 * p.norm * d) * tile if tiled else 0
    weight_gradients = model.layer_parameters * 4 if model.trained > model.parameters // 2 else 0
    live = way + inside + weight_gradients
    if checkpointed:  # layers behind the last checkpointed one are gone when that one is made again
        behind = (model.layers - 1) % levers.checkpoint_every
        live += max(0, whole - inputs - behind * whole)
    last_norm = (p.norm * d) * (tile if tiled else n)
    hidden = 2 * d * max(p.residual, 4) * n
    size = run.loss_chunk_size or default_chunk_size(model.vocabulary, torch.device(run.device_type))
    chunk = 2 * 4 * model.vocabulary * min(size, n)
    head = model.vocabulary * d * (p.cast_weights + (8 if model.head_trained else 0))
    shards, gathered = run.shards or 1, 0
    if run.shards is not None:
        root = model.parameters - model.layers * model.layer_parameters
        layers = min(2, model.layers) if run.resharded else model.layers
        gathered = p.compute * (layers * model.layer_parameters + root)
    if run.context > 1:
        live += 6 * n * run.context * model.key_width * p.compute
    own = [4 * model.parameters, 4 * model.trained, _STATE_BYTES[run.optimizer_states] * model.trained]
    own = [value // shards for value in own]
    on_host = sum(own) if run.parameters_on_host else 0
    if run.parameters_on_host:
        own = [0, 0, 0]
    return MemoryEstimate(
        weights=own[0] + gathered,
        gradients=own[1],
        optimizer=own[2],
        kept=kept + inputs,  # of the last layer, its output
        live=live,
        loss=last_norm + hidden + chunk + head,
        host=(checkpointed * inputs if levers.offload else 0)
        + on_host
        + (8 * model.trained // shards if run.optimizer_states == "host" else 0),
        gathered=gathered,
        accumulates=run.accumulates,
    )


def device_memory(device: torch.device, processes: int = 1) -> int:
    """Bytes of a GPU, or this process's part of the machine's memory (within its cgroup) for ``processes`` on it."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    import os
    from pathlib import Path

    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text) if text.isdigit() else total) // processes
