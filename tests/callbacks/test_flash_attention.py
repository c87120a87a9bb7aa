"""The callback in a module that somebody wrote without us."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lit_long.attention import PACKED
from lit_long.callbacks import FlashAttention, flash_attention
from lit_long.errors import UserError
from tests.attention.test_packed_attention import build

LENGTH = 96


class Somebodys(LightningModule):
    """A language model somewhere inside, trained on its own loss."""

    def __init__(self, model, extra=None):
        super().__init__()
        self.parts = nn.ModuleDict({"lm": model})
        self.extra, self.used, self.losses = extra, [], []

    def training_step(self, batch, _):
        ids, positions = batch["ids"], batch["positions"]
        model = self.parts["lm"]
        self.used.append(model.config._attn_implementation)
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        loss = F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten())
        if self.extra is not None:
            loss = loss + self.extra(model.get_input_embeddings()(ids)).square().mean()
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, callback, steps=2):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 4096, (4, LENGTH), generator=generator)
    positions = torch.cat([torch.arange(40), torch.arange(LENGTH - 40)])
    rows = [{"ids": row, "positions": positions} for row in ids]
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[callback] if callback else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(rows, batch_size=2))
    return module.losses


def test_a_micro_batch_in_which_candidates_are_timed_is_not_taken_for_what_runs(monkeypatch):
    callback, timed, read = FlashAttention(), iter((0, 2, 2, 2)), []
    monkeypatch.setattr(callback, "_timings", lambda: next(timed))
    real = flash_attention.attention_kernels

    def spy(*arguments):
        read.append(dict(callback.kernels))
        return real(*arguments)

    monkeypatch.setattr(flash_attention, "attention_kernels", spy)
    fit(Somebodys(build("llama", dtype=torch.float32)), callback, steps=2)
    assert read == [{}, {}]  # the first micro-batch left nothing behind
    assert callback.kernels


def test_the_same_training_on_the_kernel_that_the_trace_shows(capsys):
    stock, packed = build("llama", dtype=torch.float32), build("llama", dtype=torch.float32)
    packed.load_state_dict(stock.state_dict())
    expected = fit(Somebodys(stock), None)
    callback = FlashAttention()
    module = Somebodys(packed)
    assert fit(module, callback) == pytest.approx(expected, rel=1e-5)
    assert module.used == [PACKED, PACKED]
    assert packed.config._attn_implementation == "sdpa"  # as it was
    flash = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert callback.kernels[flash] == 2 * 2 * 2  # layers, rows, documents of a row
    assert callback.kernels[f"{flash}_backward"] == 8
    shown = capsys.readouterr().out
    assert f"attention kernels of one micro-batch, forward and backward: {flash} (8 calls)" in shown
    assert "attention (packed, float32, cpu): sdpa" in shown


class Eager(nn.Module):
    """Attention of somebody's own, written out."""

    def forward(self, states):
        return (states @ states.transpose(1, 2) / 8).softmax(-1) @ states


class Masked(nn.Module):
    def forward(self, states):
        mask = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
        return F.scaled_dot_product_attention(states[:, None], states[:, None], states[:, None], attn_mask=mask)


@pytest.mark.parametrize(
    ("extra", "message"),
    [(Eager(), r"aten::_softmax.* on \[2, 96, 96\]"), (Masked(), r"with a mask of \[96, 96\]")],
    ids=["eager", "mask"],
)
def test_square_memory_is_found_in_the_trace(extra, message):
    model = build("llama", dtype=torch.float32)
    with pytest.raises(UserError, match=f"FlashAttention: .*{message} ran in the first step"):
        fit(Somebodys(model, extra), FlashAttention())
    assert model.config._attn_implementation == "sdpa"


def test_what_the_callback_finds_is_there_without_it():
    """The witness: stock attention on packed rows does go through a square mask."""
    from torch.profiler import ProfilerActivity, profile

    from lit_long.attention.trace import attention_kernels

    model = build("llama", dtype=torch.float32)
    positions = torch.cat([torch.arange(40), torch.arange(LENGTH - 40)])[None]
    for attention, found in (("sdpa", "with a mask"), ("eager", "_softmax")):
        model.set_attn_implementation(attention)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as trace:
            model(input_ids=torch.zeros(1, LENGTH, dtype=torch.int64), position_ids=positions, use_cache=False)
        assert any(found in line for line in attention_kernels(trace, LENGTH).quadratic)


def test_an_exception_in_training_restores_attention():
    class Breaks(Somebodys):
        def training_step(self, batch, index):
            raise RuntimeError("somebody's mistake")

    model = build("llama", dtype=torch.float32)
    with pytest.raises(RuntimeError, match="somebody's mistake"):
        fit(Breaks(model), FlashAttention())
    assert model.config._attn_implementation == "sdpa"


def test_all_models_or_none():
    class Two(Somebodys):
        def __init__(self, first, second):
            super().__init__(first)
            self.second = second

    good, windowed = build("llama", dtype=torch.float32), build("mistral", dtype=torch.float32, sliding_window=32)
    with pytest.raises(UserError, match="mistral has sliding_window=32"):
        fit(Two(good, windowed), FlashAttention())
    assert good.config._attn_implementation == "sdpa"


def test_a_module_without_a_model_is_an_error():
    class Plain(Somebodys):
        def __init__(self):
            LightningModule.__init__(self)
            self.layer = nn.Linear(2, 2)

    with pytest.raises(UserError, match="FlashAttention: Plain has no transformers model in it"):
        fit(Plain(), FlashAttention())


def test_a_backend_that_is_not_there_is_an_error_and_nothing_is_switched():
    model = build("llama", dtype=torch.float32)
    with pytest.raises(UserError, match="'flash_attn_3'"):
        fit(Somebodys(model), FlashAttention(backend="flash_attn_3"))
    assert model.config._attn_implementation == "sdpa"
