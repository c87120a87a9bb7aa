"""The learning rate by hand, what is decayed, and whose settings win after a resume."""

import copy
import math

import pytest
import torch
from torch import nn

from lit_long.errors import UserError
from lit_long.optim import OptimizerSettings, adamw, lr_factor, reapply, schedule


def factors(steps, warmup_steps, final_lr_ratio=0.1):
    return [
        lr_factor(step, steps=steps, warmup_steps=warmup_steps, final_lr_ratio=final_lr_ratio) for step in range(steps)
    ]


def test_values_by_hand():
    assert factors(9, 4) == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.1 + 0.9 * (2 + math.sqrt(2)) / 4, 0.55, 0.1 + 0.9 * (2 - math.sqrt(2)) / 4, 0.1]
    )
    assert factors(3, 0, 0.0) == pytest.approx([1.0, 0.5, 0.0])
    assert factors(5, 0, 1.0) == [1.0] * 5


def test_paper_schedule():
    """Llama 2 Long: 2,000 warm-up steps of 100,000, cosine to 10 %."""
    at = {s: lr_factor(s, steps=100_000, warmup_steps=2000, final_lr_ratio=0.1) for s in (0, 999, 1999, 2000, 99_999)}
    assert at == pytest.approx({0: 1 / 2000, 999: 0.5, 1999: 1.0, 2000: 1.0, 99_999: 0.1})


@pytest.mark.parametrize(("steps", "warmup"), [(10, 0), (10, 1), (10, 8), (1000, 100)])
def test_shape(steps, warmup):
    values = factors(steps, warmup)
    assert max(values) == 1.0
    assert values[:warmup] == sorted(values[:warmup])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert values[-1] == pytest.approx(0.1)
    assert all(value > 0 for value in values)
    # beyond the end (Lightning asks once more) it stays at its last value
    assert lr_factor(steps + 5, steps=steps, warmup_steps=warmup, final_lr_ratio=0.1) == pytest.approx(0.1)


def test_short_runs():
    assert factors(1, 0) == [1.0]
    assert factors(3, 10) == pytest.approx([0.1, 0.2, 0.3])  # a trial of a recipe: the peak is never reached
    assert factors(3, 3) == pytest.approx([1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "optimizer.learning_rate is 0.0; it must be above 0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1"),
        ({"final_lr_ratio": 1.5}, "optimizer.final_lr_ratio is 1.5; it must be between 0 and 1"),
        ({"final_lr_ratio": -0.1}, "optimizer.final_lr_ratio"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        OptimizerSettings(**options)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 5)
        self.frozen = nn.Linear(4, 4)
        self.frozen.requires_grad_(False)


SETTINGS = OptimizerSettings(learning_rate=0.5, warmup_steps=2, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.3)


def test_groups():
    net = Net()
    optimizer = adamw(net.parameters(), SETTINGS)
    decayed, free = optimizer.param_groups
    assert decayed["params"] == [net.embedding.weight, net.head.weight]
    assert free["params"] == [net.norm.weight, net.norm.bias, net.head.bias]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.8, 0.9), 1e-3)
    # with matrices only (adapters without norms) there is one group
    assert len(adamw([net.head.weight, net.frozen.weight], SETTINGS).param_groups) == 1


def test_defaults_are_llama_2_longs():
    group = adamw(Net().parameters(), OptimizerSettings()).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (2e-5, (0.9, 0.95), 1e-5, 0.1)


def test_one_step_by_hand():
    """AdamW's first step: decay, then the sign of the gradient times the rate (eps apart)."""
    parameter = nn.Parameter(torch.tensor([[2.0, -1.0]], dtype=torch.float64))
    optimizer = adamw([parameter], SETTINGS)
    scheduler = schedule(optimizer, SETTINGS, 10)
    parameter.grad = torch.tensor([[0.1, -0.2]], dtype=torch.float64)
    optimizer.step()
    rate = 0.5 * 0.5  # half way through a warm-up of two steps
    expected = [2 * (1 - rate * 0.3) - rate * 0.1 / 0.101, -1 * (1 - rate * 0.3) + rate * 0.2 / 0.201]
    assert parameter.tolist()[0] == pytest.approx(expected)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5


def train(net, optimizer, scheduler, steps):
    rates = []
    for _ in range(steps):
        for index, parameter in enumerate(p for p in net.parameters() if p.requires_grad):
            parameter.grad = torch.full_like(parameter, 0.1 * (index + 1))
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def fresh(settings, steps=12):
    torch.manual_seed(0)
    net = Net()
    optimizer = adamw(net.parameters(), settings)
    return net, optimizer, schedule(optimizer, settings, steps)


def test_resume_with_the_same_settings_changes_nothing():
    whole, *parts = fresh(SETTINGS)
    rates = train(whole, *parts, 12)
    first, optimizer, scheduler = fresh(SETTINGS)
    train(first, optimizer, scheduler, 5)
    second, other_optimizer, other_scheduler = fresh(SETTINGS)
    second.load_state_dict(first.state_dict())
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other_scheduler.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    reapply(other_optimizer, other_scheduler, SETTINGS)
    assert train(second, other_optimizer, other_scheduler, 7) == rates[5:]
    for mine, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_settings_of_the_new_run_win_and_moments_stay():
    net, optimizer, scheduler = fresh(SETTINGS)
    train(net, optimizer, scheduler, 5)
    new = OptimizerSettings(
        learning_rate=0.01, warmup_steps=4, final_lr_ratio=0.5, betas=(0.7, 0.6), eps=1e-6, weight_decay=0.7
    )
    other_net, other, other_scheduler = fresh(new, steps=20)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other_scheduler.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    assert other.param_groups[0]["betas"] == (0.8, 0.9)  # what has to be put right
    reapply(other, other_scheduler, new)
    assert [group["weight_decay"] for group in other.param_groups] == [0.7, 0.0]
    for group in other.param_groups:
        assert (group["betas"], group["eps"], group["initial_lr"]) == ((0.7, 0.6), 1e-6, 0.01)
        assert group["lr"] == pytest.approx(0.01 * lr_factor(5, steps=20, warmup_steps=4, final_lr_ratio=0.5))
    state = other.state[other_net.embedding.weight]
    old = optimizer.state[net.embedding.weight]
    assert torch.equal(state["exp_avg"], old["exp_avg"])
    assert state["step"] == 5
    rates = train(other_net, other, other_scheduler, 3)
    assert rates == pytest.approx(
        [0.01 * lr_factor(s, steps=20, warmup_steps=4, final_lr_ratio=0.5) for s in (5, 6, 7)]
    )
