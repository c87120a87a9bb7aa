"""``check_parity`` passes for what is right, and finds what is wrong."""

import pytest
import torch
from transformers import AutoConfig

from lit_long.model.levers import Levers
from lit_long.model.lora import LoraSettings
from lit_long.parallel import exchange, parity

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    ("kind", "mesh", "options"),
    [
        ("llama", (8, 8), {}),
        ("qwen3", (1, 2), {"lora": LoraSettings(r=4)}),
        ("smollm3", (2, 1), {"levers": Levers(checkpointing="selective", offload=False, tile_size=32)}),
    ],
)
def test_right(kind, mesh, options):
    report = parity.check_parity(AutoConfig.for_model(kind), mesh, **options)
    assert report.passed, report
    assert report.mesh == (min(mesh[0], 2), min(mesh[1], 4))
    assert f"{report.mesh[0]} x {report.mesh[1]}" in str(report)


def test_a_gradient_that_is_lost_on_the_way(monkeypatch):
    """What Megatron-LM #7513 did: gradients of keys and values of other ranks' queries are not handed back."""
    real = exchange.GatherExchange.hand_back

    def own_only(self, key, value):
        return tuple(part / 2 for part in real(self, key, value))

    monkeypatch.setattr(exchange.GatherExchange, "hand_back", own_only)
    report = parity.check_parity(AutoConfig.for_model("llama"), (1, 2))
    assert not report.passed
    assert report.loss < 1e-12 < report.gradient_norm


def test_a_loss_that_is_averaged_over_context_ranks(monkeypatch):
    real = parity.make_meshes
    monkeypatch.setattr(torch.Tensor, "backward", _halved(torch.Tensor.backward))
    report = parity.check_parity(AutoConfig.for_model("llama"), (1, 2))
    assert report.gradient_norm > 0.4
    assert parity.make_meshes is real


def _halved(backward):
    import torch.distributed as dist

    return lambda loss, *a, **k: backward(loss / (2 if dist.is_initialized() else 1), *a, **k)
