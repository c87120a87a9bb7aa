"""bf16-mixed: attention gets half precision as its kernels need it, and proofs in float32 go round a pinned kernel."""

import lightning.pytorch as pl
import pytest
import torch

from lit_long.attention import BACKENDS, attention_report, proving, trial, use_packed_attention
from lit_long.attention.backends import AttentionBackend
from lit_long.callbacks import LeakCheck
from lit_long.data import PretrainData
from lit_long.errors import UserError
from lit_long.module import LongContextModule
from tests.attention.test_packed_attention import build


@pytest.fixture
def half(monkeypatch):
    """A kernel for half precision, as those on CUDA are; what it was given."""
    given, real = [], BACKENDS["sdpa"]

    def run(states, bounds, scale, dropout):
        assert not torch.is_autocast_enabled("cpu") or len({t.dtype for t in states}) == 1
        given.append((states[0].dtype, bounds.tokens))
        return real.run(states, bounds, scale, dropout)

    def refuses(case):
        return None if case.dtype == torch.bfloat16 else f"it is for bfloat16, not {case.dtype}"

    monkeypatch.setitem(BACKENDS, "half", AttentionBackend("half", lambda: None, refuses, run))
    return given


def test_under_autocast_queries_keys_and_values_are_of_its_precision(half):
    """The rotation makes queries and keys float32 again, beside values in bfloat16."""
    model, ids = use_packed_attention(build("llama", dtype=torch.float32), "half"), torch.arange(40)[None]
    stock = build("llama", dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found, want = model(ids, use_cache=False).logits, stock(ids, use_cache=False).logits
    assert half[-1] == (torch.bfloat16, 40)
    assert float((found - want).norm() / want.norm()) < 1e-2
    with pytest.raises(UserError, match=r"it is for bfloat16, not torch\.float32"):
        model(ids, use_cache=False)
    with proving():
        model(ids, use_cache=False)
    assert {case.dtype for case in attention_report(model).chosen} == {torch.bfloat16}


def test_a_trial_is_forgotten():
    model, ids = use_packed_attention(build("llama", dtype=torch.float32)), torch.arange(40)[None]
    model(ids, use_cache=False)
    before = dict(attention_report(model).chosen)
    with trial(model):
        model.bfloat16()(ids, use_cache=False)
        assert len(attention_report(model).chosen) == len(before) + 1
    assert attention_report(model).chosen == before


def fit(corpus, config, *callbacks, backend):
    torch.manual_seed(0)
    module = LongContextModule(model_config=config, context_length=256, attention_backend=backend)
    data = PretrainData(corpus=corpus, sequence_length=256, tokens_per_step=512)
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, data)
    return module, float(trainer.callback_metrics["loss"])


def test_a_pinned_kernel_for_half_precision_trains_and_is_leak_checked(half, corpus_dir, tiny_config):
    module, loss = fit(corpus_dir, tiny_config, LeakCheck(), backend="half")
    assert half[0][0] == torch.bfloat16
    assert {tokens for dtype, tokens in half if dtype == torch.bfloat16} >= {64, 256}  # the leak probe, training
    assert {dtype for dtype, _ in half} == {torch.bfloat16}
    assert set(attention_report(module.model).chosen.values()) == {"half"}
    _, without = fit(corpus_dir, tiny_config, backend="half")
    assert loss == without  # the check leaves the run as it is
