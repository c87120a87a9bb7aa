"""The chunked loss against torch's own cross-entropy in float64: values, every gradient, memory, and bad positions."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lit_long import loss as exact
from lit_long.loss import IGNORE

T, D, V = 23, 6, 17


def linear_cross_entropy(*args, **kwargs):
    return exact.linear_cross_entropy(*args, **kwargs).loss


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0
        self.operations = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.operations.append(str(function))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.fixture
def inputs():
    hidden = torch.randn(T, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(V, D, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(V, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, V, (T,))
    targets[::5] = IGNORE
    return hidden, weight, bias, targets


def reference(hidden, weight, targets, bias=None, target_weights=None):
    losses = F.cross_entropy(F.linear(hidden, weight, bias), targets, ignore_index=IGNORE, reduction="none")
    return (losses if target_weights is None else losses * target_weights).sum()


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 7, 22, 23, 24, 1000])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_value_and_gradients(inputs, chunk_size, with_bias, weighted):
    hidden, weight, bias, targets = inputs
    target_weights = torch.rand(T, dtype=torch.float64) * 3 if weighted else None
    tensors = (hidden, weight, bias) if with_bias else (hidden, weight)
    options = {"bias": bias if with_bias else None, "target_weights": target_weights}
    ours = linear_cross_entropy(hidden, weight, targets, chunk_size=chunk_size, **options)
    theirs = reference(hidden, weight, targets, **options)
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    # a factor behind the loss, as the division by step_target_weight
    for mine, other in zip(gradients(ours * 0.37, *tensors), gradients(theirs * 0.37, *tensors), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-12)


def test_gradcheck():
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 3, IGNORE, 1, 1])
    target_weights = torch.tensor([1.0, 0.5, 2.0, 0.0, 3.0])

    def loss(hidden, weight, bias):
        return linear_cross_entropy(hidden, weight, targets, bias=bias, target_weights=target_weights, chunk_size=2)

    assert torch.autograd.gradcheck(loss, (hidden, weight, bias))


def test_a_second_derivative_is_refused_not_wrong(inputs):
    hidden, weight, _, targets = inputs
    loss = linear_cross_entropy(hidden, weight, targets).square()
    (first,) = torch.autograd.grad(loss, hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_leading_dimensions(inputs):
    hidden, weight, bias, targets = inputs
    hidden, targets = hidden[:20], targets[:20]
    flat = linear_cross_entropy(hidden, weight, targets, bias=bias)
    shaped = linear_cross_entropy(
        hidden.view(2, 10, D), weight, targets.view(2, 10), bias=bias, target_weights=torch.ones(2, 10), chunk_size=6
    )
    torch.testing.assert_close(shaped, flat)
    strided = hidden.detach().view(2, 10, D).transpose(0, 1).requires_grad_()  # not contiguous
    loss = linear_cross_entropy(strided, weight, targets.view(2, 10).T, bias=bias)
    (grad,) = gradients(loss, strided)
    torch.testing.assert_close(grad.transpose(0, 1).reshape(20, D), gradients(flat, hidden)[0][:20])


@pytest.mark.parametrize("state", [float("inf"), float("nan"), 1e300], ids=str)
@pytest.mark.parametrize("how", ["ignored", "in part"])
def test_positions_that_count_nothing_cannot_spoil_anything(inputs, state, how):
    hidden, weight, bias, targets = inputs
    clean = gradients(reference(hidden, weight, targets, bias), hidden, weight, bias)
    spoilt = hidden.detach().clone()
    spoilt[::5] = state
    spoilt.requires_grad_()
    if how == "ignored":
        targets = torch.full_like(targets, IGNORE)
        clean = tuple(torch.zeros_like(grad) for grad in clean)
    loss = linear_cross_entropy(spoilt, weight, targets, bias=bias, chunk_size=4)
    grads = gradients(loss, spoilt, weight, bias)
    assert torch.isfinite(loss)
    assert how == "in part" or loss.item() == 0.0
    for mine, other in zip(grads, clean, strict=True):
        if how == "ignored":
            assert torch.equal(mine, other)
        else:
            torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-12)


def test_ignored_positions_of_the_logits_scale():
    """The case that happens: a finite state whose float32 logits overflow."""
    hidden = torch.randn(4, D)
    hidden[1] = 1e30
    hidden.requires_grad_()
    weight = (torch.randn(V, D) * 1e10).requires_grad_()
    loss = linear_cross_entropy(hidden, weight, torch.tensor([1, IGNORE, 2, 3]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()
    assert torch.isfinite(weight.grad).all()
    assert torch.equal(hidden.grad[1], torch.zeros(D))


def test_large_logits_do_not_overflow():
    hidden = torch.tensor([[1000.0], [-1000.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 0]))
    assert loss.item() == 2000.0
    loss.backward()
    assert weight.grad.tolist() == [[1000.0], [-1000.0]]


def test_bfloat16_autocast_is_close_to_float32():
    hidden = torch.randn(200, 64, requires_grad=True)
    weight = (torch.randn(300, 64) / 8).requires_grad_()
    targets = torch.randint(0, 300, (200,))
    exact = linear_cross_entropy(hidden, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = linear_cross_entropy(hidden, weight, targets, chunk_size=64)
        stock = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
    assert mixed.dtype == torch.float32
    assert abs(mixed - exact) / exact < 2e-3
    assert mixed != exact  # it really ran in bfloat16
    for mine, other, mixed_stock in zip(
        gradients(mixed, hidden, weight),
        gradients(exact, hidden, weight),
        gradients(stock, hidden, weight),
        strict=True,
    ):
        assert mine.dtype == torch.float32
        error = (mine - other).norm() / other.norm()
        assert error < 0.01
        assert error < 1.5 * (mixed_stock - other).norm() / other.norm()  # no worse than torch's own


def test_bfloat16_hidden_states_sum_in_float32():
    hidden = torch.randn(64, 8).bfloat16().requires_grad_()
    weight = torch.randn(50, 8).bfloat16().requires_grad_()
    targets = torch.randint(0, 50, (64,))
    loss = linear_cross_entropy(hidden, weight, targets, chunk_size=16)
    loss.backward()
    assert (loss.dtype, hidden.grad.dtype, weight.grad.dtype) == (torch.float32, torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(loss, reference(hidden.float(), weight.float(), targets), rtol=5e-3, atol=0.0)


@pytest.mark.parametrize("with_grad", [True, False])
def test_logits_of_all_tokens_never_exist(with_grad):
    tokens, vocab, dim, chunk = 512, 1000, 8, 64
    hidden = torch.randn(tokens, dim, requires_grad=True)
    weight = torch.randn(vocab, dim, requires_grad=True)
    targets = torch.randint(0, vocab, (tokens,))
    with Largest() as seen, torch.set_grad_enabled(with_grad):
        loss = linear_cross_entropy(hidden, weight, targets, chunk_size=chunk)
        if with_grad:
            loss.backward()
    assert seen.numel == chunk * vocab
    with Largest() as stock:  # the witness would see them
        reference(hidden, weight, targets)
    assert stock.numel == tokens * vocab


def test_no_work_for_gradients_that_nobody_asks_for(inputs):
    hidden, weight, bias, targets = inputs

    def products(*, chunk_size=T, **options):
        with Largest() as seen:
            loss = linear_cross_entropy(
                options.get("hidden", hidden), options.get("weight", weight), targets, bias=bias, chunk_size=chunk_size
            )
        return loss, sum(name.startswith(("aten.mm", "aten.addmm")) for name in seen.operations)

    assert products()[1] == 3
    with torch.no_grad():
        loss, count = products()
    assert count == 1
    assert not loss.requires_grad
    loss, count = products(weight=weight.detach())  # as with adapters: the output layer is frozen
    assert count == 2
    assert torch.autograd.grad(loss, hidden)[0].abs().sum() > 0


def test_weight_tied_with_the_embedding(inputs):
    _, weight, _, targets = inputs
    ids = torch.randint(0, V, (T,))
    ours = linear_cross_entropy(F.embedding(ids, weight).tanh(), weight, targets, chunk_size=5)
    theirs = reference(F.embedding(ids, weight).tanh(), weight, targets)
    torch.testing.assert_close(gradients(ours, weight), gradients(theirs, weight), rtol=1e-11, atol=1e-12)


def test_micro_batches_add_up_to_the_exact_token_mean(inputs):
    """The point of a sum over the step's weight: any split gives the gradient of the whole."""
    hidden, weight, bias, targets = inputs
    mean = F.cross_entropy(F.linear(hidden, weight, bias), targets, ignore_index=IGNORE)
    count = int((targets != IGNORE).sum())
    shares = [
        linear_cross_entropy(hidden[a:b], weight, targets[a:b], bias=bias) / count
        for a, b in ((0, 1), (1, 9), (9, 10), (10, T))  # the first has no target at all
    ]
    torch.testing.assert_close(sum(shares), mean)
    torch.testing.assert_close(gradients(sum(shares), weight), gradients(mean, weight))


def test_no_tokens():
    hidden = torch.zeros(0, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.zeros(0, dtype=torch.int64))
    assert loss.item() == 0.0
    assert torch.equal(gradients(loss, weight)[0], torch.zeros(V, D))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_ids": torch.zeros(T - 1, dtype=torch.int64)}, "all but D must agree"),
        ({"target_ids": torch.full((T,), V)}, f"target {V} is outside the vocabulary of {V}"),
        ({"target_ids": torch.full((T,), -1)}, "target -1 is outside the vocabulary"),
        ({"target_weights": torch.ones(T + 1)}, "target_weights is"),
        ({"weight": torch.zeros(V, D + 1)}, "D and V must agree"),
        ({"bias": torch.zeros(V + 1)}, "D and V must agree"),
        ({"chunk_size": 0}, "chunk_size is 0"),
    ],
)
def test_mistakes(change, message):
    arguments = {
        "hidden": torch.zeros(T, D),
        "weight": torch.zeros(V, D),
        "target_ids": torch.zeros(T, dtype=torch.int64),
    } | change
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(**arguments)
