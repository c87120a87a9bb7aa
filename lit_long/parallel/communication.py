"""What FSDP2 x context parallelism moves between devices, against what a layer computes. Arithmetic, no measurement.

For one decoder layer and one micro-batch of S tokens that c context ranks share (S/c each), with H query and K
key/value heads of d numbers, b bytes a number, P parameters of the layer, over N = data x context ranks. A rank
receives (n-1)/n of what a collective over n ranks assembles:

- parameters: ``2 P b (N-1)/N`` (gathered for the forward and again for the backward), gradients ``4 P (N-1)/N``
  (float32);
- ``gather`` (what lit-long does): K and V, ``2 S K d b (c-1)/c``, for the forward, again for the backward, and as much
  for the gradients that go back: three times. A ring passes the same numbers on in c-1 steps;
- ``alltoall`` (DeepSpeed-Ulysses): queries, keys, values and results change from tokens to heads,
  ``(2 H + 2 max(K, c)) (S/c) d b (c-1)/c``, forward and backward: twice. Needs c to divide H.

Compute, forward and backward: ``6 P S/c`` for the matrices and ``12 H d p/c`` for attention over p (query, key) pairs
(S(S+1)/2 for one document). ``alltoall`` moves less than ``gather`` where ``2 (H + max(K, c)) < 3 K c``.
"""

from dataclasses import dataclass

PEAK = 989e12  # FLOP/s, bfloat16, dense: NVIDIA H100 SXM data sheet
NVLINK = 450e9  # bytes/s into a GPU, one direction: half of the 900 GB/s of the same data sheet
NETWORK = 50e9  # bytes/s into a GPU: 400 Gb/s
NODE = 8  # GPUs


@dataclass(frozen=True, kw_only=True)
class LayerShape:
    """A decoder layer: ``parameters`` P, query ``heads`` H, ``kv_heads`` K, ``head_dim`` d."""

    parameters: float
    heads: int
    kv_heads: int
    head_dim: int


def parameter_bytes(layer: LayerShape, ranks: int, *, resharded: bool = True, param_bytes: int = 2) -> float:
    """Bytes of parameters and gradients into a rank, forward and backward."""
    share = (ranks - 1) / ranks
    return layer.parameters * share * (param_bytes * (2 if resharded else 1) + 4)


def gather_bytes(layer: LayerShape, tokens: int, context: int, *, number_bytes: int = 2) -> float:
    """Bytes of keys, values and their gradients into a rank, forward and backward."""
    return 3 * 2 * tokens * layer.kv_heads * layer.head_dim * number_bytes * (context - 1) / context


def alltoall_bytes(layer: LayerShape, tokens: int, context: int, *, number_bytes: int = 2) -> float | None:
    """The same for an exchange of heads; None where the heads cannot be divided."""
    if layer.heads % context:
        return None
    heads = 2 * layer.heads + 2 * max(layer.kv_heads, context)
    return 2 * heads * (tokens / context) * layer.head_dim * number_bytes * (context - 1) / context


def compute_seconds(
    layer: LayerShape, tokens: int, context: int, *, pairs: float | None = None, efficiency: float = 0.5
) -> float:
    """Seconds of a rank for the layer, forward and backward, at ``efficiency`` of the peak.

    Args:
        layer: the layer.
        tokens: S.
        context: c.
        pairs: (query, key) pairs of the micro-batch; default: one document.
        efficiency: share of the peak.
    """
    pairs = tokens * (tokens + 1) / 2 if pairs is None else pairs
    flops = 6 * layer.parameters * tokens / context + 12 * layer.heads * layer.head_dim * pairs / context
    return flops / (PEAK * efficiency)


def seconds(moved: float, ranks: int) -> float:
    """Seconds for bytes into a rank of a group of ``ranks`` neighbours: by NVLink in a node, else by the network."""
    return moved / (NVLINK if ranks <= NODE else NETWORK)
