"""Where and how AdamW keeps its moments: the same update, whichever is chosen."""

import io
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from lit_long.errors import UserError
from lit_long.optim import HostAdamW, OptimizerSettings, adamw, host, reapply, schedule

STEPS, INPUT = 6, torch.randn(32, 64, generator=torch.Generator().manual_seed(1))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 9), nn.LayerNorm(9))


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    # a function as map_location is what Lightning passes
    return torch.load(file, weights_only=True, map_location=lambda storage, location: storage)


def train(states, resume_at=None, resume_as=None):
    """Weights after some clipped steps under the schedule, in one go or through a checkpoint."""
    model, settings = network(), OptimizerSettings(states=states, learning_rate=1e-2, warmup_steps=2)
    optimizer = adamw(model.parameters(), settings)
    rates = schedule(optimizer, settings, 10)
    for number in range(STEPS):
        if number == resume_at:
            saved, saved_rates = through_a_file(optimizer.state_dict()), rates.state_dict()
            settings = OptimizerSettings(states=resume_as or states, learning_rate=1e-2, warmup_steps=2)
            optimizer = adamw(model.parameters(), settings)
            optimizer.load_state_dict(saved)
            rates = schedule(optimizer, settings, 10)
            rates.load_state_dict(saved_rates)
            reapply(optimizer, rates, settings)
        optimizer.zero_grad()
        model(INPUT).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        rates.step()
    return torch.cat([p.detach().flatten() for p in model.parameters()]), optimizer


@pytest.mark.parametrize("slice_size", [2**25, 1000])
def test_on_the_host_it_is_the_same_update(slice_size, monkeypatch):
    monkeypatch.setattr(host, "SLICE", slice_size)
    expected, _ = train("float32")
    found, optimizer = train("host")
    if slice_size > 64 * 64:
        assert torch.equal(found, expected)
    else:  # the kernel rounds the numbers at the end of a slice otherwise
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert isinstance(optimizer, HostAdamW)
    assert not optimizer.state  # what is there, Lightning moves to the GPU


@pytest.mark.parametrize(("states", "resume_as"), [("host", "host"), ("host", "float32"), ("float32", "host")])
def test_either_resumes_the_other(states, resume_as):
    assert torch.equal(train(states, 3, resume_as)[0], train("float32")[0])


def test_parameters_without_gradient_wait():
    model = network()
    optimizer = HostAdamW(model.parameters(), lr=0.1)
    model[0](INPUT).square().mean().backward()
    before = model[2].weight.detach().clone()
    optimizer.step(lambda: None)
    assert torch.equal(model[2].weight, before)
    assert sorted(optimizer.state_dict()["state"]) == [0, 1]


def test_the_fused_kernel_lets_lightning_clip():
    model = network()
    optimizer = adamw(model.parameters(), OptimizerSettings())
    assert optimizer.param_groups[0]["fused"]
    model(INPUT).square().mean().backward()
    MixedPrecision("bf16-mixed", "cpu").clip_gradients(optimizer, 1e-3)
    assert float(nn.utils.get_total_norm([p.grad for p in model.parameters()])) == pytest.approx(1e-3, rel=1e-3)


@pytest.fixture
def torchao(monkeypatch):
    """As ``make test`` puts it beside the environment."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / ".cache" / "lowbit"))
    return pytest.importorskip("torchao.optim")


def test_8_bit_without_torchao_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"optimizer.states is 8bit.*lit-long\[lowbit\]'?, or set states to float32"):
        OptimizerSettings(states="8bit")


@pytest.mark.parametrize(("found", "asked"), [("8bit", "float32"), ("8bit", "host"), ("float32", "8bit")])
@pytest.mark.usefixtures("torchao")
def test_resuming_with_states_of_another_width_is_refused(found, asked):
    with torch.compiler.set_stance("force_eager"), pytest.raises(UserError, match=f"states are .*{found}.* is {asked}"):
        train(found, 3, asked)


@pytest.mark.usefixtures("torchao")
def test_8_bit_is_near_and_resumes():
    with torch.compiler.set_stance("force_eager"):  # compiling the update is torchao's part
        straight, optimizer = train("8bit")
        resumed, _ = train("8bit", 3)
    expected, _ = train("float32")
    start = torch.cat([p.detach().flatten() for p in network().parameters()])
    assert float((straight - expected).norm() / (expected - start).norm()) < 0.1
    torch.testing.assert_close(resumed, straight, rtol=0, atol=1e-6)
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    assert state["exp_avg"].codes.dtype == torch.uint8
    plain = optimizer.state_dict()["state"]
    assert sorted(plain[0]["exp_avg"]) == ["codes", "qmap", "scale", "signed"]
    assert type(plain[1]["exp_avg"]) is torch.Tensor  # small


def test_sharded_parameters_are_refused_on_the_host(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        weight = nn.Parameter(distribute_tensor(torch.ones(4, 4), init_device_mesh("cpu", (1,))))
        with pytest.raises(UserError, match=r"optimizer\.states: host is for whole parameters"):
            HostAdamW([weight], lr=0.1)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_the_host_of_a_gpu(monkeypatch):
    monkeypatch.setattr(host, "SLICE", 1000)
    models = [network().cuda() for _ in range(2)]
    optimizers = [
        adamw(model.parameters(), OptimizerSettings(states=states))
        for model, states in zip(models, ("float32", "host"), strict=True)
    ]
    for _ in range(4):
        for model, optimizer in zip(models, optimizers, strict=True):
            model.zero_grad()
            model(INPUT.cuda()).square().mean().backward()
            optimizer.step()
    for mine, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)
