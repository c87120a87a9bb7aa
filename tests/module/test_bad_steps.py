"""A step that is not a number, or explodes, stops the run or is skipped, and its documents are named."""

import json
from copy import deepcopy

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_long.bad_steps import ENOUGH, BadSteps, StepJudge
from lit_long.data import PretrainData
from lit_long.errors import UserError
from lit_long.loggers import JSONLLogger
from lit_long.module import LongContextModule
from lit_long.optim import OptimizerSettings
from tests.gloo import run_ranks

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 6


class Wrong(LongContextModule):
    """Multiplies the loss of some steps, perhaps on one rank alone."""

    factors, rank = {}, 0

    def training_step(self, batch, batch_index):
        loss = super().training_step(batch, batch_index)
        factor = self.factors.get(self.trainer.global_step)
        if factor is None or self.trainer.global_rank != self.rank:
            return loss
        self._step_losses = self._step_losses * factor
        return loss * factor


class Keep(pl.Callback):
    """Weights and optimizer states behind every step."""

    def __init__(self):
        self.weights, self.states = {}, {}

    def on_train_batch_end(self, trainer, module, *_):
        self.weights[trainer.global_step] = [p.detach().clone() for p in module.parameters()]
        self.states[trainer.global_step] = deepcopy(trainer.optimizers[0].state_dict()["state"])


def fit(corpus, model, folder, bad_steps, factors, *, steps=STEPS, stop=None, ckpt=None, devices=1, rank=0):
    pl.seed_everything(3, verbose=False)
    lit = Wrong(
        model=model,
        context_length=256,
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup_steps=2),
        bad_steps=bad_steps,
    )
    lit.factors, lit.rank = factors, rank
    data = PretrainData(corpus=corpus, sequence_length=128, tokens_per_step=256, micro_batch=1)
    keep = Keep()

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == stop

    saver = ModelCheckpoint(every_n_train_steps=1, save_last=True, enable_version_counter=False)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=steps, devices=devices, strategy="ddp" if devices > 1 else "auto",
        logger=JSONLLogger(save_dir=str(folder)), log_every_n_steps=1, callbacks=[saver, keep, Stop()],
        enable_progress_bar=False, gradient_clip_val=1.0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(lit, data, ckpt_path=ckpt)
    return lit, keep


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_skipped_step_changes_nothing_and_the_run_goes_on(corpus_dir, tiny_model_dir, tmp_path, factor):
    lit, keep = fit(corpus_dir, tiny_model_dir, tmp_path, BadSteps(action="skip"), {2: factor})
    assert equal(keep.weights[3], keep.weights[2])
    assert not equal(keep.weights[4], keep.weights[3])
    for before, after in zip(keep.states[2].values(), keep.states[3].values(), strict=True):
        assert equal(before.values(), after.values())
    assert lit.judge.skipped == 1
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped_steps"] for row in rows if "skipped_steps" in row] == [0, 0, 1, 1, 1, 1]
    line = json.loads((tmp_path / "bad_steps.jsonl").read_text())
    assert line["step"] == 2
    assert line["done"] == "skipped"
    spans = sum(document["end"] - document["begin"] for document in line["documents"])
    assert spans == 256  # every token of the step
    assert {document["id"] for document in line["documents"]} <= {"persuasion", "as-you-like-it", "jargon-file"}


def test_the_first_step(corpus_dir, tiny_model_dir, tmp_path):
    _, keep = fit(corpus_dir, tiny_model_dir, tmp_path, BadSteps(action="skip"), {0: float("nan")})
    assert not keep.states[1]
    assert not equal(keep.weights[2], keep.weights[1])


def test_stops_and_says_which_documents(corpus_dir, tiny_model_dir, tmp_path):
    with pytest.raises(UserError, match=r"step 1: its loss is nan; documents of the step: all/\S+ \[\d+:\d+\]") as said:
        fit(corpus_dir, tiny_model_dir, tmp_path, None, {1: float("nan")})
    assert "bad_steps.jsonl" in str(said.value)
    assert json.loads((tmp_path / "bad_steps.jsonl").read_text())["done"] == "stopped"


def test_too_many_in_a_row(corpus_dir, tiny_model_dir, tmp_path):
    factors = dict.fromkeys(range(1, STEPS), float("nan"))
    with pytest.raises(UserError, match=r"step 3: .* stops after 2 skipped in a row"):
        fit(corpus_dir, tiny_model_dir, tmp_path, BadSteps(action="skip", max_skipped=2), factors)


def test_resumed_behind_a_skipped_step(corpus_dir, tiny_model_dir, tmp_path):
    options = (BadSteps(action="skip"), {2: float("nan")})
    _, straight = fit(corpus_dir, tiny_model_dir, tmp_path / "straight", *options)
    fit(corpus_dir, tiny_model_dir, tmp_path / "cut", *options, stop=3)
    last = str(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    lit, cut = fit(corpus_dir, tiny_model_dir, tmp_path / "cut", *options, ckpt=last)
    assert equal(straight.weights[STEPS], cut.weights[STEPS])
    assert lit.judge.skipped == 1


def _one_rank_is_wrong(rank, corpus, model, folder):
    lit, keep = fit(corpus, model, folder, BadSteps(action="skip"), {2: float("nan")}, devices=2, rank=1)
    return {"skipped": lit.judge.skipped, "same": equal(keep.weights[3], keep.weights[2]), "end": keep.weights[STEPS]}


def test_all_ranks_skip_what_one_finds(corpus_dir, tiny_model_dir, tmp_path):
    arguments = (corpus_dir, tiny_model_dir, tmp_path / "run")
    found = run_ranks(_one_rank_is_wrong, tmp_path, *arguments, join=False)
    assert [(f["skipped"], f["same"]) for f in found] == [(1, True)] * 2
    assert equal(found[0]["end"], found[1]["end"])


def test_an_explosion_is_measured_against_the_median():
    judge = StepJudge(BadSteps(action="skip", loss_above=1.5, grad_norm_above=4))
    assert judge.reason(100.0, 1.0) is None  # nothing to compare with yet
    for _ in range(ENOUGH):
        assert judge.reason(2.0, 1.0) is None
    assert "its loss 3.1 is more than 1.5 times the median 2" in judge.reason(3.1, 1.0)
    assert "its gradient norm 4.5" in judge.reason(2.0, 4.5)
    assert judge.reason(2.9, 3.9) is None
    other = StepJudge(judge.settings)
    other.load(judge.state())
    assert other.state() == judge.state()
    assert "its loss is nan" in other.reason(float("nan"), 1.0)


@pytest.mark.parametrize("options", [{"loss_above": 1.0}, {"grad_norm_above": 0.5}, {"max_skipped": 0}])
def test_settings_that_make_no_sense(options):
    with pytest.raises(UserError, match=next(iter(options))):
        BadSteps(**options)
