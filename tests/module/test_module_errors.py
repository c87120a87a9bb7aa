"""Mistakes are named before training starts."""

import lightning.pytorch as pl
import pytest
import torch

from lit_long.data import PretrainData
from lit_long.errors import UserError
from lit_long.module import LongContextModule
from lit_long.rope import ABF


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return pl.Trainer(**(quiet | {"max_steps": 1, "use_distributed_sampler": False} | options))


def data(corpus, **options):
    return PretrainData(**({"corpus": str(corpus), "sequence_length": 128, "tokens_per_step": 512} | options))


@pytest.mark.parametrize(
    ("module", "given", "trains", "message"),
    [
        ({}, {}, {"precision": "bf16-true"}, "rounds rotary positions"),
        ({}, {}, {"max_steps": -1, "max_epochs": 1}, "max_steps is not set"),
        ({}, {"sequence_length": 512}, {}, "beyond model.context_length 256"),
        ({}, {"micro_batch": 3}, {}, r"micro_batch may be \[1, 2, 4\]"),
        ({}, {}, {"accumulate_grad_batches": 3}, "need 4 micro-batches"),
        ({"loss_backend": "liger"}, {}, {}, "loss backend 'liger' cannot do this: its kernels are for CUDA"),
    ],
)
def test_settings_that_do_not_fit(corpus_dir, tiny_model_dir, module, given, trains, message):
    lit = LongContextModule(**({"model": str(tiny_model_dir), "context_length": 256, "rope": ABF()} | module))
    with pytest.raises(UserError, match=message):
        trainer(**trains).fit(lit, data(corpus_dir, **given))


def test_a_corpus_of_another_tokenizer_is_refused(corpus_dir, tiny_model_dir, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    other = Tokenizer(models.WordLevel({"<eos>": 0, "a": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=other, eos_token="<eos>").save_pretrained(tmp_path)
    lit = LongContextModule(model=str(tiny_model_dir), tokenizer=str(tmp_path), context_length=256, rope=ABF())
    with pytest.raises(UserError, match="ids would mean other words"):
        trainer().fit(lit, data(corpus_dir))


def test_a_batch_without_its_step_weight_is_refused(tiny_model_dir):
    lit = LongContextModule(model=str(tiny_model_dir), context_length=256, rope=ABF())
    row = torch.arange(64).unsqueeze(0)
    batch = {"input_ids": row, "position_ids": row, "target_ids": row}
    with pytest.raises(UserError, match="step_target_weight"):
        trainer().fit(lit, train_dataloaders=[batch])


def test_a_loss_that_is_not_a_number_stops_the_run(tiny_model_dir, corpus_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where a trainer without a logger leaves bad_steps.jsonl
    lit = LongContextModule(model=str(tiny_model_dir), context_length=256, rope=ABF())
    lit.configure_model()
    with torch.no_grad():
        lit.model.model.norm.weight.fill_(float("inf"))
    with pytest.raises(UserError, match="step 0: its loss is nan"):
        trainer().fit(lit, data(corpus_dir))


def test_the_rope_is_checked_before_any_weight_is_read(tiny_model_dir):
    with pytest.raises(UserError, match="shorter than the model's native 64"):
        LongContextModule(model=str(tiny_model_dir), context_length=32)
