"""Prove that a live model's attention scales queries and keys as xPos does.

xPos is not in the rotary module but in the attention function, so the proof goes there. In one forward pass of four
equal tokens the function is replaced by a probe that sees what each layer hands in. (i) The queries must be one query
turned by position x frequency in the pairs (j, j + R/2): the decay of a pair belongs to its frequency, and other models
pair neighbours. (ii) The live function is called with made-up states at positions that span the context, and must give
attention by the formula in float64. Probed attention adds nothing, so all tokens stay equal through all layers.

Shapes: H query heads, K key/value heads, P probe positions, D head dimension, R rotary dimensions.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lit_long.rope.mismatch import RopeMismatchError

_TOLERANCE = 1e-3  # of the norm; what the decay makes of it is of the order of 0.1


@torch.no_grad()
def verify_decay(model: nn.Module, inv_freq: Tensor, decay: Tensor, context_length: int) -> float:
    """Check every attention layer of a live model.

    Args:
        model: The model, bare or in wrappers.
        inv_freq: Frequencies by the formula, float64 [R/2].
        decay: Factor on each frequency's part of a score for each token of distance, float64 [R/2].
        context_length: Context in tokens.

    Returns:
        The largest error of an attention output, as a share of its norm.

    Raises:
        RopeMismatchError: A layer pairs its dimensions differently, or its attention does not scale by the formula.
    """
    from transformers import AttentionInterface
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    inner: Any = next(module for module in model.modules() if hasattr(type(module), "set_attn_implementation"))
    name = inner.config._attn_implementation
    if name not in ALL_ATTENTION_FUNCTIONS.valid_keys():
        raise RopeMismatchError(f"attention {name!r} does not scale queries and keys, as xPos needs. {_PACKED}")
    live = ALL_ATTENTION_FUNCTIONS[name]
    # far enough for the decay to show: over a context that is short for the scale base nothing would
    span = max(context_length, math.ceil(math.log(0.5) / math.log(float(decay.min()))))
    positions = torch.tensor([0, 1, span // 2, span - 1])
    errors: list[float] = []

    def probe(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        what = f"layer {getattr(module, 'layer_idx', len(errors))} ({type(module).__name__})"
        turned = _check_pairs(what, query, inv_freq) and _check_pairs(what, key, inv_freq)
        layer = decay if turned else torch.ones_like(decay)  # a layer without positions has no xPos, either
        errors.append(_check_function(what, live, (module, query, key, value), layer, positions, options))
        return value.new_zeros(value.shape[0], query.shape[2], query.shape[1], value.shape[3]), None

    whole: Any = model if hasattr(model, "get_input_embeddings") else inner
    device = inner.get_input_embeddings().weight.device
    modes = [(module, module.training) for module in whole.modules()]
    AttentionInterface.register(name, probe)
    try:
        whole.eval()
        ids = torch.ones(1, len(positions), dtype=torch.int64, device=device)
        whole(input_ids=ids, position_ids=positions[None].to(device), use_cache=False)
    finally:
        AttentionInterface.register(name, live)
        for module, training in modes:
            module.training = training
    if not errors:
        raise RopeMismatchError(f"{type(inner).__name__} does not use transformers' attention interface. {_PACKED}")
    return max(errors)


_PACKED = "Train it with attention: packed, on a model type that has full causal attention."


def _check_pairs(what: str, states: Tensor, inv_freq: Tensor) -> bool:
    """Whether [1, H, P, D] states of equal tokens at positions 0 and 1 are turned; each pair by its own frequency."""
    pairs = len(inv_freq)
    first, second = states[0, :, :2].double().cpu().unbind(1)  # [H, D]
    if torch.equal(first, second):
        return False
    x, y = first[:, :pairs], first[:, pairs : 2 * pairs]
    cos, sin = inv_freq.cos(), inv_freq.sin()
    turned = torch.cat([x * cos - y * sin, y * cos + x * sin, first[:, 2 * pairs :]], dim=-1)
    if not float((second - turned).norm()) <= _TOLERANCE * float(first.norm()):
        raise RopeMismatchError(
            f"{what} does not turn dimensions j and j + {pairs} of a head together, as Llama does, so xPos would scale "
            "the wrong ones. Use rope method 'abf' with this model type."
        )
    return True


def _check_function(
    what: str,
    live: Any,
    states: tuple[nn.Module, Tensor, Tensor, Tensor],
    decay: Tensor,
    positions: Tensor,
    options: dict[str, Any],
) -> float:
    """Call the live attention function with made-up states of these shapes; return its error against the formula."""
    module, *given = states
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(1, *t.shape[1:], generator=generator, dtype=torch.float64).to(t.dtype) for t in given]
    scaling = options.get("scaling")
    found, _ = live(
        module,
        *(t.to(given[0].device) for t in made),
        None,
        scaling=scaling,
        position_ids=positions[None].to(given[0].device),
        cu_seq_lens_q=torch.tensor([0, len(positions)], dtype=torch.int32, device=given[0].device),
        cu_seq_lens_k=torch.tensor([0, len(positions)], dtype=torch.int32, device=given[0].device),
        max_length_q=len(positions),
        max_length_k=len(positions),
    )
    query, key, value = (t.double()[0] for t in made)
    key, value = (t.repeat_interleave(query.shape[0] // t.shape[0], dim=0) for t in (key, value))
    distance = (positions[:, None] - positions[None, :]).clamp(min=0)  # [P, P]
    rest = query.shape[-1] - 2 * len(decay)
    factors = torch.cat([decay, decay, decay.new_ones(rest)]) ** distance[..., None]  # [P, P, D]
    scores = torch.einsum("hqd,hkd,qkd->hqk", query, key, factors) * (scaling or query.shape[-1] ** -0.5)
    causal = torch.ones(len(positions), len(positions), dtype=torch.bool).tril()
    weights = scores.masked_fill(~causal, float("-inf")).softmax(-1)
    expected = torch.einsum("hqk,hkd->qhd", weights, value)
    error = float((found[0].double().cpu() - expected).norm() / expected.norm())
    rounding = _TOLERANCE if given[0].dtype in (torch.float32, torch.float64) else 4e-2
    if not error <= rounding:
        raise RopeMismatchError(
            f"{what}: its attention differs from xPos by {error:.1%}: it does not scale queries and keys by their "
            f"positions. {_PACKED}"
        )
    return error
