"""The strategy in somebody else's Lightning project (the example of docs/parallel.md), and in half precision."""

import lightning.pytorch as pl
import pytest
import torch
from transformers import AutoModelForCausalLM

from lit_long.attention import use_packed_attention
from lit_long.errors import UserError
from lit_long.parallel.strategy import ContextParallelStrategy
from tests.gloo import run_ranks
from tests.parallel.parallel_runs import KeepWeights, fit, fit_on_mesh, lines

pytestmark = pytest.mark.filterwarnings("ignore")
STEPS, ROWS, LENGTHS = 3, 4, (40, 7, 50)


class Mine(pl.LightningModule):
    """Makes its model in ``__init__``, and computes whole logits."""

    def __init__(self, folder, packed=True):
        super().__init__()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model = use_packed_attention(model) if packed else model

    def training_step(self, batch, index):
        logits = self.model(batch["input_ids"], position_ids=batch["position_ids"]).logits
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["target_ids"].flatten(), reduction="sum")
        return losses * self.trainer.world_size * self.trainer.accumulate_grad_batches / batch["step_target_weight"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(replicas, rank):
    generator = torch.Generator().manual_seed(0)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    rows = []
    for _ in range(STEPS * ROWS):
        ids, targets = torch.randint(1, 4000, (2, 1, sum(LENGTHS)), generator=generator)
        row = {"input_ids": ids, "position_ids": positions, "target_ids": targets}
        rows.append({**row, "step_target_weight": float(ROWS * sum(LENGTHS))})
    return torch.utils.data.DataLoader(rows[rank::replicas], batch_size=None)


def train(rank, folder, mesh, packed=True, extra=None):
    keep = KeepWeights()
    strategy = ContextParallelStrategy(context_parallel_size=mesh[1]) if mesh else "auto"
    replicas = mesh[0] if mesh else 1
    trainer = pl.Trainer(
        accelerator="cpu", devices=mesh[0] * mesh[1] if mesh else 1, strategy=strategy, max_steps=STEPS,
        accumulate_grad_batches=ROWS // replicas, logger=False, enable_checkpointing=False, callbacks=[keep],
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    loader = batches(replicas, rank // mesh[1] if mesh else 0)
    if extra:
        loader = torch.utils.data.DataLoader([{**b, **extra} for b in loader.dataset], batch_size=None)
    try:
        trainer.fit(Mine(folder, packed), loader)
    except UserError as error:
        return {"error": str(error)}
    return keep.weights


@pytest.mark.parametrize(("mesh", "packed"), [((1, 2), True), ((2, 2), False)])
def test_the_same_weights_as_on_one_process(tiny_model_dir, tmp_path, mesh, packed):
    expected = train(0, tiny_model_dir, None)
    for found in run_ranks(train, tmp_path, tiny_model_dir, mesh, packed, ranks=mesh[0] * mesh[1], join=False):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: name + m)


def test_unshifted_labels_are_refused(tiny_model_dir, tmp_path):
    labels = {"labels": torch.ones(1, sum(LENGTHS), dtype=torch.long)}
    for found in run_ranks(train, tmp_path, tiny_model_dir, (1, 2), True, labels, join=False):
        assert "'labels' are not shifted yet" in found["error"]


def test_what_cannot_be_split_is_said_before_the_first_step():
    from transformers import AutoConfig

    from lit_long.parallel.strategy import _require_splittable

    with pytest.raises(UserError, match=r"attention_dropout is 0.1, and dropout cannot be split"):
        _require_splittable(AutoConfig.for_model("llama", attention_dropout=0.1))
    config = AutoConfig.for_model("llama")
    config.rope_parameters = {"rope_type": "xpos"}
    with pytest.raises(UserError, match="xPos cannot be split yet"):
        _require_splittable(config)


class Chosen(Mine):
    """Chooses its attention in ``configure_model``, as LongContextModule does."""

    def configure_model(self):
        pass


def chosen(rank, folder, context):
    strategy = ContextParallelStrategy(context_parallel_size=context)
    trainer = pl.Trainer(
        accelerator="cpu", strategy=strategy, devices=2, max_steps=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, use_distributed_sampler=False,
    )  # fmt: skip
    module = Chosen(folder, packed=False)
    try:
        trainer.fit(module, batches(2 // context, rank // context))
    except UserError as error:
        return [str(error)]
    return [module.model.config._attn_implementation]


def test_an_attention_that_was_chosen_is_not_changed(tiny_model_dir, tmp_path):
    for found in run_ranks(chosen, tmp_path, tiny_model_dir, 2, join=False):
        assert "'sdpa', which cannot be split" in found[0]
    for found in run_ranks(chosen, tmp_path, tiny_model_dir, 1, join=False):
        assert found[0] == "sdpa"


def nothing_to_split(rank):
    class Empty(Mine):
        def __init__(self):
            pl.LightningModule.__init__(self)
            self.layer = torch.nn.Linear(2, 2)

    trainer = pl.Trainer(
        accelerator="cpu", strategy=ContextParallelStrategy(), devices=1, logger=False, enable_checkpointing=False
    )
    try:
        trainer.fit(Empty(), batches(1, 0))
    except UserError as error:
        return [str(error)]
    return [""]


def test_a_module_without_a_transformers_model(tmp_path):
    assert "Empty has no transformers model in it" in run_ranks(nothing_to_split, tmp_path, ranks=1, join=False)[0][0]


def test_bfloat16_is_near(corpus_dir, tiny_model_dir, tmp_path):
    """Gathered and computed in bfloat16, kept and reduced in float32: positions do not suffer."""
    fit(corpus_dir, tiny_model_dir, tmp_path / "one")
    _, weights = fit_on_mesh(corpus_dir, tiny_model_dir, tmp_path / "two", mesh=(1, 2), param_dtype="bfloat16")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    expected, found = (lines(tmp_path / name, "loss", "grad_norm") for name in ("one", "two"))
    assert expected != found
    for step, values in expected.items():
        assert found[step] == pytest.approx(values, rel=2e-2)
