"""The formulas of docs/parallel.md, against the bytes that lit-long's own exchange really moves."""

import pytest
import torch
import torch.distributed as dist

from lit_long.parallel.communication import LayerShape, alltoall_bytes, compute_seconds, gather_bytes, parameter_bytes
from lit_long.parallel.exchange import GatherExchange
from lit_long.parallel.layout import plan_layout
from tests.gloo import run_ranks

LAYER = LayerShape(parameters=1000.0, heads=6, kv_heads=2, head_dim=8)
TOKENS = 96


def moved(rank):
    """Bytes that came into this rank from others in a forward and a backward pass."""
    ranks, received = dist.get_world_size(), []
    from lit_long.parallel import exchange

    for module, name in ((exchange, "_all_gather"), (dist, "all_to_all_single")):
        real = getattr(module, name)

        def counting(output, given, *, group, real=real):
            received.append(output.numel() * output.element_size() * (ranks - 1) / ranks)
            return real(output, given, group=group)

        setattr(module, name, counting)
    layout = plan_layout([0, TOKENS], ranks)
    positions = torch.from_numpy(layout.index(rank))[None]
    query, key, value = (
        torch.randn(1, layout.local_tokens, heads, LAYER.head_dim, requires_grad=True)
        for heads in (LAYER.heads, LAYER.kv_heads, LAYER.kv_heads)
    )
    GatherExchange(layout, dist.group.WORLD, positions).attend(query, key, value, None).sum().backward()
    return torch.tensor(received)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_gather_is_what_the_exchange_moves(tmp_path, ranks):
    for received in run_ranks(moved, tmp_path, ranks=ranks):
        assert float(received.sum()) == gather_bytes(LAYER, TOKENS, ranks, number_bytes=4)


def test_the_others():
    assert parameter_bytes(LAYER, 4) == 1000 * 0.75 * 8
    assert parameter_bytes(LAYER, 4, resharded=False) == 1000 * 0.75 * 6
    assert alltoall_bytes(LAYER, TOKENS, 4) is None  # 6 heads over 4 ranks
    assert alltoall_bytes(LAYER, TOKENS, 3) == 2 * (12 + 6) * 32 * 8 * 2 * 2 / 3
    whole = 6 * 1000 * TOKENS + 12 * 6 * 8 * TOKENS * (TOKENS + 1) / 2
    assert compute_seconds(LAYER, TOKENS, 2, efficiency=1.0) == pytest.approx(whole / 2 / 989e12)
