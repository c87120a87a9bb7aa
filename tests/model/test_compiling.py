"""torch.compile layer by layer, together with checkpointing and tiles, at changing lengths.

On a backend without code generation: what is compared is the tracing, which is what could go wrong.
"""

import pytest
import torch
from tiny_runs import LORA, step, text_batch, tiny_model, worst

from lit_long.model import compiling
from lit_long.model.levers import Levers


@pytest.fixture(autouse=True)
def _eager_backend(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


@pytest.mark.parametrize(
    "options",
    [{"checkpointing": "none"}, {"checkpointing": "selective", "offload": True, "tile_size": 30}],
    ids=["alone", "all"],
)
def test_as_many_graphs_whatever_the_layers_and_lengths(tiny_config, corpus_dir, options):
    setting = Levers(**{"offload": False, "tile_size": 0, "compile": True} | options)
    plain = tiny_model(tiny_config, num_hidden_layers=12)
    model = tiny_model(tiny_config, num_hidden_layers=12, levers=setting)
    counts = []
    for length, cuts in ((96, (40,)), (64, ()), (120, (5, 50, 90)), (96, (13,))):
        batch = text_batch(corpus_dir, length=length, cuts=cuts)
        expected, found = step(plain, batch), step(model, batch)
        assert torch.allclose(found[0], expected[0], rtol=1e-6)
        assert worst(found[1], expected[1]) < 1e-5
        counts.append(graphs())
    assert 0 < counts[0] <= 8
    # no layer, no length and no second run makes another one; a row of one document does: there, attention's result
    # lies otherwise in memory
    assert counts[1] <= counts[0] + 1
    assert counts[1:] == counts[1:2] * 3


def test_with_adapters(tiny_config, corpus_dir):
    setting = Levers(checkpointing="full", offload=False, tile_size=0, compile=True)
    batch = text_batch(corpus_dir)
    expected = step(tiny_model(tiny_config, lora=LORA), batch)
    found = step(tiny_model(tiny_config, lora=LORA, levers=setting), batch)
    assert torch.allclose(found[0], expected[0], rtol=1e-6)
    assert worst(found[1], expected[1]) < 1e-5
    assert graphs() > 0
