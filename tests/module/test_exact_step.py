"""One optimizer step is the same however it is divided, and the same as stock transformers on single documents."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from lit_long.data import PretrainData, TokenCorpus
from lit_long.model import Levers
from lit_long.module import LongContextModule
from lit_long.optim import OptimizerSettings
from lit_long.rope import ABF, scale_rope


class Losses(pl.Callback):
    """Losses, and the gradient of the first step before clipping."""

    def __init__(self):
        self.losses, self.gradient = [], None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.gradient is None:
            self.gradient = {n: p.grad.clone() for n, p in pl_module.model.named_parameters() if p.grad is not None}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.losses.append(float(trainer.callback_metrics["loss"]))


def train(corpus, model_dir, *, micro_batch, steps=3, data_options=None, **module):
    pl.seed_everything(3)
    watch = Losses()
    options = {"sequence_length": 256, "tokens_per_step": 1024, "seed": 5} | (data_options or {})
    data = PretrainData(corpus=str(corpus), micro_batch=micro_batch, **options)
    options = {"context_length": 256, "rope": ABF(), "optimizer": OptimizerSettings(warmup_steps=2, learning_rate=1e-3)}
    lit = LongContextModule(model=str(model_dir), **(options | module))
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
    )
    trainer.fit(lit, data)
    return lit, data, watch


@pytest.mark.parametrize("document_mask", [True, False])
@pytest.mark.parametrize("packing", ["concat", "best_fit", "single"])
def test_gradient_is_the_token_mean_of_stock_transformers(corpus_dir, tiny_model_dir, packing, document_mask):
    options = {"packing": packing, "document_mask": document_mask, "workers": 2}
    _, data, watch = train(corpus_dir, tiny_model_dir, micro_batch=2, steps=1, data_options=options)
    reference = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    config = scale_rope(copy.deepcopy(reference.config), ABF(), 256)
    reference = AutoModelForCausalLM.from_pretrained(
        tiny_model_dir, config=config, dtype=torch.float64, attn_implementation="eager"
    )
    corpus = TokenCorpus(corpus_dir)
    total, count = torch.zeros((), dtype=torch.float64), 0
    for row in data.plan.step(0):
        documents = [torch.tensor(corpus.document(d)[a : b + 1]).long() for d, a, b in row.pieces.tolist()]
        inputs = [tokens[: b - a] for tokens, (_, a, b) in zip(documents, row.pieces.tolist(), strict=True)]
        if document_mask:  # every piece of a document alone, through stock code
            logits = [reference(input_ids=ids[None]).logits[0] for ids in inputs]
        else:  # the row as one text
            logits = reference(input_ids=torch.cat(inputs)[None]).logits[0].split([len(ids) for ids in inputs])
        for tokens, out in zip(documents, logits, strict=True):
            targets = tokens[1:]
            total = total + F.cross_entropy(out[: len(targets)], targets, reduction="sum")
            count += len(targets)
    (total / count).backward()
    assert count == data.plan.step_targets(0)
    assert watch.losses[0] == pytest.approx(float(total / count), rel=1e-6)
    for name, parameter in reference.named_parameters():
        assert torch.allclose(watch.gradient[name].double(), parameter.grad, rtol=1e-3, atol=2e-6), name


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_accumulation_changes_nothing(corpus_dir, tiny_model_dir, micro_batch):
    whole, _, one = train(corpus_dir, tiny_model_dir, micro_batch=4)
    divided, data, many = train(corpus_dir, tiny_model_dir, micro_batch=micro_batch)
    assert data.trainer.accumulate_grad_batches == 4 // micro_batch
    assert many.losses == pytest.approx(one.losses, rel=1e-5)
    for (name, a), (_, b) in zip(whole.model.named_parameters(), divided.model.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5), name


def test_levers_change_nothing(corpus_dir, tiny_model_dir):
    _, _, plain = train(corpus_dir, tiny_model_dir, micro_batch=4)
    levers = Levers(checkpointing="selective", offload=True, tile_size=100)
    _, _, checkpointed = train(corpus_dir, tiny_model_dir, micro_batch=4, levers=levers)
    assert checkpointed.losses == pytest.approx(plain.losses, rel=1e-6)


def test_packed_and_stock_attention_agree(corpus_dir, tiny_model_dir):
    _, _, packed = train(corpus_dir, tiny_model_dir, micro_batch=4)
    _, _, stock = train(corpus_dir, tiny_model_dir, micro_batch=4, attention="sdpa")
    assert stock.losses == pytest.approx(packed.losses, rel=1e-5)


def test_bf16_mixed_is_close_and_keeps_positions_in_float32(corpus_dir, tiny_model_dir):
    pl.seed_everything(3)
    data = PretrainData(corpus=str(corpus_dir), sequence_length=256, tokens_per_step=1024, micro_batch=4, seed=5)
    watch = Losses()
    lit = LongContextModule(model=str(tiny_model_dir), context_length=256, rope=ABF())
    trainer = pl.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=2,
        callbacks=[watch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    trainer.fit(lit, data)
    _, _, exact = train(corpus_dir, tiny_model_dir, micro_batch=4, steps=1)
    assert watch.losses[0] == pytest.approx(exact.losses[0], rel=5e-3)
    assert lit.model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_levers_that_are_auto_are_chosen_and_said(corpus_dir, tiny_model_dir, capsys, monkeypatch):
    monkeypatch.setattr("lit_long.module.device_memory", lambda device, processes: 20_000_000)
    tight, _, chosen = train(corpus_dir, tiny_model_dir, micro_batch=4, steps=1)
    assert tight.built.levers == Levers(checkpointing="full", offload=False, tile_size=0)
    printed = capsys.readouterr().out
    assert "not enough: checkpointing none: 0.0" in printed
    assert "for 4 x 256 tokens in 32-true" in printed
    monkeypatch.undo()
    roomy, _, plain = train(corpus_dir, tiny_model_dir, micro_batch=4, steps=1)
    assert roomy.built.levers.checkpointing == "none"
    assert "levers: checkpointing none: " in capsys.readouterr().out
    assert chosen.losses == plain.losses


def test_where_the_optimizer_keeps_its_states_changes_nothing(corpus_dir, tiny_model_dir):
    options = {"warmup_steps": 2, "learning_rate": 1e-3}
    _, _, plain = train(corpus_dir, tiny_model_dir, micro_batch=4, optimizer=OptimizerSettings(**options))
    _, _, other = train(
        corpus_dir, tiny_model_dir, micro_batch=4, optimizer=OptimizerSettings(**options, states="host")
    )
    assert other.losses == plain.losses
