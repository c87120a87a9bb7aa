"""A DataModule with stages that shares no code with PretrainData: random tokens, a pure function of the step."""

import lightning.pytorch as pl
import torch

from lit_long.data.schedule import LengthSchedule, Stage, stage_at
from lit_long.data.stage_switch import StageSwitch


class StagedData(pl.LightningDataModule):
    """``stages``: (sequence length, share of the run, micro-batch). A row is two documents, a third and the rest."""

    def __init__(self, stages, *, tokens_per_step=1024, validation=False):
        super().__init__()
        self.schedule = LengthSchedule([Stage(sequence_length=n, until=u, micro_batch=m) for n, u, m in stages])
        self.tokens_per_step, self.validation = tokens_per_step, validation
        self.sequence_length = self.schedule.longest
        self.spans = ()

    def setup(self, stage):
        if stage == "fit":
            self.spans = self.schedule.spans(steps=self.trainer.max_steps, tokens_per_step=self.tokens_per_step)
            StageSwitch.attach(self.trainer, self)

    def accumulation(self, step):
        span = stage_at(self.spans, step)
        return span.sequences_per_step // span.micro_batch

    def train_dataloader(self):
        return Loader(self)

    def val_dataloader(self):
        held_out = [batch(rows(-1, 256, 1024), 1.0)] if self.validation else []
        return torch.utils.data.DataLoader(held_out, batch_size=None)


class Loader:
    def __init__(self, data):
        self.data, self.step = data, 0

    def __len__(self):
        return self.data.trainer.max_steps * max(self.data.accumulation(s.first_step) for s in self.data.spans)

    def __iter__(self):
        for step in range(self.step, self.data.trainer.max_steps):
            span = stage_at(self.data.spans, step)
            whole = rows(step, span.sequence_length, self.data.tokens_per_step)
            weight = float(batch(whole, 1.0)["target_ids"].ne(-100).sum())
            parts = whole.split(span.micro_batch)
            for number, part in enumerate(parts):
                self.step = step + (number == len(parts) - 1)
                yield batch(part, weight)

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


def rows(step, length, tokens):
    """Token ids of a step, [rows, length + 1]: an arithmetic sequence with a random start and slope in each row."""
    generator = torch.Generator().manual_seed(step + 100)
    count = tokens // length
    start, slope = torch.randint(4096, (2, count, 1), generator=generator)
    return (start + (slope % 7 + 1) * torch.arange(length + 1)) % 4096


def batch(rows, weight):
    count, length = rows.shape[0], rows.shape[1] - 1
    cut = length // 3
    position = torch.cat([torch.arange(cut), torch.arange(length - cut)])
    target = rows[:, 1:].clone()
    target[:, cut - 1] = -100
    starts = (torch.arange(count)[:, None] * length + torch.tensor([0, cut])).flatten()
    return {
        "input_ids": rows[:, :-1].clone(),
        "position_ids": position.expand(count, -1).clone(),
        "target_ids": target,
        "cu_seqlens": torch.cat([starts, torch.tensor([count * length])]).to(torch.int32),
        "max_seqlen": length - cut,
        "step_target_weight": weight,
    }
