"""Single parts inside a Lightning project that knows nothing of LongContextModule."""

import lightning.pytorch as pl
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.attention import use_packed_attention
from lit_long.callbacks import StepProgress, Throughput
from lit_long.data import PretrainData
from lit_long.loss import linear_cross_entropy
from lit_long.rope import ABF, RopeGeometry, scale_rope, verify_rope


class SomebodysModule(pl.LightningModule):
    def __init__(self, folder):
        super().__init__()
        config = AutoConfig.from_pretrained(folder)
        native = RopeGeometry.from_config(config)
        self.lm = AutoModelForCausalLM.from_pretrained(folder, config=scale_rope(config, ABF(), 256))
        self.report = verify_rope(self.lm, ABF(), native, 256)
        use_packed_attention(self.lm)
        self.seen = []

    def training_step(self, batch, _):
        hidden = self.lm.model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).last_hidden_state
        loss = linear_cross_entropy(hidden, self.lm.lm_head.weight, batch["target_ids"]).loss
        loss = loss / batch["step_target_weight"] * self.trainer.accumulate_grad_batches
        self.seen.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def test_parts_work_alone(corpus_dir, tiny_model_dir, capsys):
    module = SomebodysModule(tiny_model_dir)
    data = PretrainData(corpus=str(corpus_dir), sequence_length=256, tokens_per_step=1024, micro_batch=2)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=8,
        logger=False,
        enable_checkpointing=False,
        callbacks=[StepProgress(plain_every=0), Throughput()],
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    assert len(module.seen) == 16
    assert sum(module.seen[-4:]) < sum(module.seen[:4]) - 0.1
    shown = capsys.readouterr().err
    assert "step 8/8" in shown
    assert "sequence length 256" in shown
