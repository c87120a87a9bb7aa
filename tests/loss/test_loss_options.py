"""Weights, z-loss, scaled and capped logits, sums, and the other backends, against plain float64 autograd."""

import pytest
import torch
from torch.nn import functional as F

from lit_long.loss import IGNORE, OutputTransform, backends, linear_cross_entropy
from lit_long.loss.chunked import CPU_CHUNK_BYTES, default_chunk_size

T, D, V = 29, 6, 17
PLAIN = OutputTransform()


@pytest.fixture
def inputs():
    hidden = torch.randn(T, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(V, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, V, (T,))
    targets[::5] = IGNORE
    return hidden, weight, bias, targets


def reference(hidden, weight, bias, targets, weights, transform, z_loss):
    logits = F.linear(hidden, weight, bias) * transform.scale
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    z_part = z_loss * torch.logsumexp(logits, dim=1).square() * (targets != IGNORE)
    return ((losses + z_part) * weights).sum(), (z_part * weights).sum()


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
@pytest.mark.parametrize("z_loss", [0.0, 0.3])
@pytest.mark.parametrize(
    "transform",
    [PLAIN, OutputTransform(scale=0.4), OutputTransform(softcap=1.5), OutputTransform(scale=3.0, softcap=5.0)],
    ids=str,
)
@pytest.mark.parametrize("weighted", [True, False])
def test_every_option_alone_and_together(inputs, chunk_size, z_loss, transform, weighted):
    hidden, weight, bias, targets = inputs
    weights = torch.rand(T, dtype=torch.float64) * 3 if weighted else None
    options = {"bias": bias, "transform": transform, "z_loss": z_loss, "chunk_size": chunk_size}
    ours = linear_cross_entropy(hidden, weight, targets, weights, **options)
    ones = torch.ones(T, dtype=torch.float64) if weights is None else weights
    expected, z_part = reference(hidden, weight, bias, targets, ones, transform, z_loss)
    torch.testing.assert_close(ours.loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.z_loss, z_part, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.weight, ones[targets != IGNORE].sum())
    assert not ours.weight.requires_grad
    assert not ours.z_loss.requires_grad
    tensors = (hidden, weight, bias)
    for mine, other in zip(
        torch.autograd.grad(ours.loss * 0.37, tensors), torch.autograd.grad(expected * 0.37, tensors), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-11)


def test_the_inputs_are_left_as_they_were(inputs):
    hidden, weight, bias, targets = inputs
    before = [tensor.detach().clone() for tensor in inputs]
    options = {"bias": bias, "transform": OutputTransform(scale=2.0, softcap=3.0), "z_loss": 0.1}
    linear_cross_entropy(hidden, weight, targets, **options).loss.backward()
    for mine, other in zip(inputs, before, strict=True):
        assert torch.equal(mine.detach(), other)


def test_a_weight_at_an_ignored_position_counts_nowhere(inputs):
    hidden, weight, _, targets = inputs
    weights = torch.ones(T, dtype=torch.float64)
    clean = linear_cross_entropy(hidden, weight, targets, weights)
    weights[::5] = float("nan")
    spoilt = linear_cross_entropy(hidden, weight, targets, weights)
    assert torch.equal(clean.loss, spoilt.loss)
    assert float(spoilt.weight) == int((targets != IGNORE).sum())


def test_no_target_is_zero_loss_weight_and_gradient(inputs):
    hidden, weight, bias, targets = inputs
    sums = linear_cross_entropy(hidden, weight, torch.full_like(targets, IGNORE), bias=bias, z_loss=0.1)
    assert [float(part.detach()) for part in sums] == [0.0, 0.0, 0.0]
    for grad in torch.autograd.grad(sums.loss, (hidden, weight, bias)):
        assert torch.equal(grad, torch.zeros_like(grad))


def test_a_chunk_holds_a_set_amount_of_memory_whatever_the_vocabulary():
    cpu = torch.device("cpu")
    for vocab in (32_000, 49_152, 128_256):
        assert CPU_CHUNK_BYTES / 2 < default_chunk_size(vocab, cpu) * vocab * 4 <= CPU_CHUNK_BYTES
    assert default_chunk_size(300, cpu) == 4096
    assert default_chunk_size(10**7, cpu) == 64


needs_torch = pytest.mark.skipif(
    not hasattr(F, "linear_cross_entropy"), reason="torch.nn.functional.linear_cross_entropy is of torch 2.13"
)


@needs_torch
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_torchs_own_operator_agrees(inputs, dtype):
    hidden, weight, bias, targets = (t.detach().to(dtype) if t.is_floating_point() else t for t in inputs)
    found = {}
    for name in ("chunked", "torch"):
        tensors = [tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
        sums = linear_cross_entropy(tensors[0], tensors[1], targets, bias=tensors[2], chunk_size=8, backend=name)
        found[name] = (sums, torch.autograd.grad(sums.loss, tensors))
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}[dtype]
    torch.testing.assert_close(found["torch"][0], found["chunked"][0], rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found["torch"][1], found["chunked"][1], rtol=tolerance, atol=tolerance)


@needs_torch
def test_torchs_own_operator_is_refused_where_its_sums_would_be_rounded(inputs):
    hidden, weight, _, targets = (t.detach().bfloat16() if t.is_floating_point() else t for t in inputs)
    with pytest.raises(ValueError, match=r"in bfloat16 it returns the sum, and adds up .* in bfloat16; use 'auto'"):
        linear_cross_entropy(hidden, weight, targets, backend="torch")


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("torch", {"z_loss": 0.1}, "no weights of targets, z-loss|has no linear_cross_entropy"),
        ("torch", {"transform": OutputTransform(softcap=1.0)}, "capped logits|has no linear_cross_entropy"),
        ("torch", {"target_weights": torch.ones(T)}, "no weights of targets|has no linear_cross_entropy"),
        ("liger", {}, "its kernels are for CUDA, the tensors are on cpu"),
    ],
)
def test_a_pinned_backend_that_cannot_is_refused(inputs, name, options, why):
    hidden, weight, _, targets = inputs
    with pytest.raises(
        ValueError, match=rf"loss backend '{name}' cannot do this: .*({why}).*; use 'auto' or 'chunked'"
    ):
        linear_cross_entropy(hidden, weight, targets, backend=name, **options)


def test_auto_on_a_cpu_is_chunked(inputs, monkeypatch):
    used = []
    real = backends.BACKENDS["chunked"].run
    spy = backends.LossBackend(lambda inputs: None, lambda inputs: used.append(1) or real(inputs))
    monkeypatch.setitem(backends.BACKENDS, "chunked", spy)
    linear_cross_entropy(inputs[0], inputs[1], inputs[3])
    assert used == [1]


def test_the_fastest_backend_is_taken_and_a_wrong_one_is_not(inputs, monkeypatch):
    """The measurement itself, with backends whose speed and results are known."""
    hidden, weight, _, targets = inputs
    calls, clock = [], iter(range(10**6))
    seconds = {"slow": 5, "quick": 1, "wrong": 0, "wrong gradients": 0, "fails": 0}

    def backend(name):
        def run(probe):
            calls.append(name)
            for _ in range(seconds[name]):
                next(clock)
            if name == "fails":
                raise torch.OutOfMemoryError("out of memory")
            loss, z_part = backends._chunked(probe)
            if name == "wrong gradients":
                loss = loss.detach() + 1.01 * (loss - loss.detach())
            return (loss * 1.01 if name == "wrong" else loss), z_part

        return backends.LossBackend(lambda probe: None, run)

    monkeypatch.setattr(backends.time, "perf_counter", lambda: next(clock))
    for name in seconds:
        monkeypatch.setitem(backends.BACKENDS, name, backend(name))
    made = backends.Inputs(
        hidden=hidden, weight=weight, bias=None, target_ids=targets, target_weights=None, transform=PLAIN, z_loss=0.0,
        chunk_size=8, compute_dtype=torch.float64,
    )  # fmt: skip
    before = torch.random.get_rng_state()
    assert backends.fastest(tuple(seconds), made) == "quick"
    assert set(calls) == set(seconds)
    assert hidden.grad is None
    assert weight.grad is None
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"z_loss": -1.0}, "z_loss is -1.0"), ({"chunk_size": 0}, "chunk_size is 0")],
)
def test_mistakes(inputs, options, message):
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(inputs[0], inputs[1], inputs[3], **options)
