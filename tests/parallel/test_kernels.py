"""A run's attention and its gradients against plain softmax in float64, on the CPU and, where there is one, a GPU."""

import pytest
import torch

from lit_long.parallel.kernels import run_backward, run_forward
from lit_long.parallel.layout import Run

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"))]
RUNS = {
    "begins inside a document": Run(0, (70, 90, 91, 120), 20),
    "begins with one": Run(0, (20, 64), 20),
    "one token at the end": Run(0, (99, 100), 0),
}


def dense(query, key, value, run, scale):
    """Softmax over a whole mask: a query sees its own document, up to itself."""
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    place = torch.arange(run.query_cuts[0], run.key_stop)
    other = torch.arange(run.key_start, run.key_stop)
    cuts = torch.tensor(run.key_cuts)
    same = torch.searchsorted(cuts, place, right=True)[:, None] == torch.searchsorted(cuts, other, right=True)[None]
    mask = same & (other[None] <= place[:, None])
    scores = torch.einsum("qhd,khd->hqk", query, key) * scale
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(~mask, float("-inf")).softmax(-1), value)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", RUNS)
def test_run(name, dtype, device):
    if device == "cuda" and dtype != torch.bfloat16:
        pytest.skip("flash attention on CUDA takes half precision")
    run = RUNS[name]
    generator = torch.Generator().manual_seed(0)
    shapes = ((run.tokens, 6, 32), *[(run.key_stop - run.key_start, 2, 32)] * 2, (run.tokens, 6, 32))
    query, key, value, grad = (torch.randn(s, generator=generator).to(dtype) for s in shapes)
    exact = [t.double().requires_grad_() for t in (query, key, value)]
    expected = dense(*exact, run, 0.2)
    expected.backward(grad.double())
    on = [t.to(device) for t in (query, key, value)]
    out, lse = run_forward(*on, run, 0.2)
    gradients = run_backward(grad.to(device), *on, out, lse, run, 0.2)
    assert lse.shape == (6, run.tokens)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2}[dtype]
    for found, true in ((out, expected), *zip(gradients, (t.grad for t in exact), strict=True)):
        assert found.dtype == dtype
        torch.testing.assert_close(found.cpu().double(), true.detach(), rtol=tolerance, atol=tolerance)
