"""One optimizer step after another, as each project trains: lit-long, transformers' Trainer, TRL, litgpt.

Every way starts from the same weights (a Llama shape, float32, saved by ``step.py``), sees the same rows of tokens in
the same order, one row a step, AdamW at one learning rate, no evaluation, no checkpoint, no logging service. Its step
is timed from before its forward pass to after its optimizer, by its own hooks.

Set up as each project's documentation does for packed pretraining on one device:

- ``lit-long``: ``LongContextModule`` and ``Trainer.fit``; no activation checkpointing, as everywhere here, but in the
  row ``lit-long, levers`` (selective checkpointing, MLPs and norms in tiles of 4,096 tokens).
- ``transformers Trainer, documents apart``: rows as ``DataCollatorWithFlattening`` makes them (``position_ids`` restart
  at each document, its first label is -100). Its documentation means flash attention, which a CPU has not; SDPA then
  gets a square mask.
- ``transformers Trainer, one block``: ``run_clm.py``: a row is one block, documents see each other.
- ``TRL SFTTrainer``: ``packing=True`` with its default strategy (``bfd``), whose rows these are (``seq_lengths``);
  documents apart through ``position_ids``. Its loss is in chunks by default.
- ``litgpt``: its ``GPT``, ``torch.compile`` and ``chunked_cross_entropy``, as ``litgpt/pretrain.py``; documents see
  each other (it has no masks of documents).
"""

import json
import os
import resource
import time
from pathlib import Path

import numpy as np

RATE = 1e-4


def rows_of(job):
    """Rows of the job: (token ids int64 [S], document lengths)."""
    with np.load(job["rows"]) as data:
        ids, lengths, counts = data["ids"], data["lengths"], data["counts"]
    ends = np.cumsum(counts)
    return [
        (row.astype(np.int64), lengths[end - count : end]) for row, count, end in zip(ids, counts, ends, strict=True)
    ]


def positions_of(lengths):
    """0, 1, 2, ... in each document."""
    return np.concatenate([np.arange(n) for n in lengths])


class Clock:
    """Seconds of each step and its loss."""

    def __init__(self):
        self.seconds, self.losses, self._began = [], [], 0.0

    def start(self):
        self._began = time.perf_counter()

    def stop(self, loss):
        self.seconds.append(time.perf_counter() - self._began)
        self.losses.append(None if loss is None else float(loss))

    def result(self):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {"seconds": self.seconds, "losses": self.losses, "peak_mib": peak}


def _batch(ids, lengths):
    """A packed batch of one row; the last token of each document predicts nothing."""
    import torch

    targets = np.roll(ids, -1)
    targets[np.cumsum(lengths) - 1] = -100
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "position_ids": torch.from_numpy(positions_of(lengths))[None],
        "target_ids": torch.from_numpy(targets)[None],
        "cu_seqlens": torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
        "max_seqlen": int(max(lengths)),
        "step_target_weight": float((targets != -100).sum()),
    }


def lit_long(job, *, apart=True, levers=None):
    import torch
    from lightning.pytorch import Callback, LightningDataModule, Trainer

    from lit_long import LongContextModule
    from lit_long.callbacks import Throughput
    from lit_long.model import Levers
    from lit_long.optim import OptimizerSettings

    batches = [_batch(ids, lengths if apart else [len(ids)]) for ids, lengths in rows_of(job)]

    class Data(LightningDataModule):
        def train_dataloader(self):
            return torch.utils.data.DataLoader(batches, batch_size=None)

    clock = Clock()

    class Timer(Callback):
        def on_train_batch_start(self, *_):
            clock.start()

        def on_train_batch_end(self, trainer, module, outputs, *_):
            clock.stop(outputs["loss"])

    torch.manual_seed(0)
    optimizer = OptimizerSettings(  # as the peers', so that the losses of later steps can be compared, too
        learning_rate=RATE, warmup_steps=0, final_lr_ratio=1.0, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0
    )
    module = LongContextModule(
        model=job["model"],
        context_length=job["context"],
        optimizer=optimizer,
        levers=Levers(**(levers or {"checkpointing": "none"})),
    )
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=len(batches), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0, callbacks=[Timer(), Throughput()],
        use_distributed_sampler=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, Data())
    return clock.result()


def _hf_clock():
    from transformers import TrainerCallback

    clock = Clock()

    class Timer(TrainerCallback):
        def on_step_begin(self, *_, **__):
            clock.start()

        def on_step_end(self, *_, **__):
            clock.stop(None)

        def on_log(self, args, state, control, logs=None, **_):
            if logs and "loss" in logs and clock.losses:
                clock.losses[-1] = float(logs["loss"])

    return clock, Timer()


def _hf_arguments(job):
    return {
        "output_dir": job["work"], "max_steps": job["steps"], "per_device_train_batch_size": 1, "learning_rate": RATE,
        "report_to": "none", "save_strategy": "no", "logging_strategy": "steps", "logging_steps": 1, "use_cpu": True,
        "dataloader_num_workers": 0, "disable_tqdm": True, "lr_scheduler_type": "constant", "warmup_steps": 0,
        "gradient_checkpointing": job.get("checkpointing", False), "seed": 0,
    }  # fmt: skip


def _in_order(trainer_class):
    """The same trainer, with the rows in the order given."""
    from torch.utils.data import SequentialSampler

    class InOrder(trainer_class):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(self.train_dataset)

    return InOrder


def transformers_trainer(job, *, apart=True):
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    def row(ids, lengths):
        labels = ids.copy()
        found = {"input_ids": ids, "labels": labels}
        if apart:
            labels[np.cumsum([0, *lengths[:-1]])] = -100
            found["position_ids"] = positions_of(lengths)
        return {key: torch.from_numpy(value) for key, value in found.items()}

    clock, timer = _hf_clock()
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    arguments = TrainingArguments(**_hf_arguments(job))
    trainer = _in_order(Trainer)(
        model=model, args=arguments, train_dataset=[row(*r) for r in rows_of(job)], callbacks=[timer]
    )
    trainer.train()
    return clock.result()


def trl_sft(job):
    import datasets
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = rows_of(job)
    data = datasets.Dataset.from_dict(
        {"input_ids": [ids.tolist() for ids, _ in rows], "seq_lengths": [lengths.tolist() for _, lengths in rows]}
    )
    clock, timer = _hf_clock()
    arguments = SFTConfig(
        **_hf_arguments(job),
        packing=True,
        max_length=job["length"],
        dataset_kwargs={"skip_prepare_dataset": True},
        shuffle_dataset=False,
        bf16=False,
    )
    trainer = _in_order(SFTTrainer)(
        model=AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32),
        args=arguments,
        train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(job["tokenizer"]),
        callbacks=[timer],
    )
    trainer.train()
    return clock.result()


def litgpt(job, *, compiled=True):
    import lightning
    import torch
    from litgpt.config import Config
    from litgpt.model import GPT
    from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
    from litgpt.utils import chunked_cross_entropy
    from safetensors.torch import load_file

    shape = json.loads(Path(job["model"], "config.json").read_text())
    config = Config(
        block_size=job["length"], vocab_size=shape["vocab_size"], padded_vocab_size=shape["vocab_size"],
        n_layer=shape["num_hidden_layers"], n_head=shape["num_attention_heads"], n_embd=shape["hidden_size"],
        n_query_groups=shape["num_key_value_heads"], intermediate_size=shape["intermediate_size"], bias=False,
        rotary_percentage=1.0, parallel_residual=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        norm_eps=shape["rms_norm_eps"], rope_base=int(shape["rope_parameters"]["rope_theta"]),
        head_size=shape["head_dim"], lm_head_bias=False,
    )  # fmt: skip
    weights = {}
    source = load_file(Path(job["model"], "model.safetensors"))
    source.setdefault("lm_head.weight", source["model.embed_tokens.weight"])
    copy_weights_hf_llama(config, {}, weights, source)
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    model = GPT(config)
    model.load_state_dict(weights)
    if shape["tie_word_embeddings"]:
        model.lm_head.weight = model.transformer.wte.weight
    if compiled:
        model = torch.compile(model)
    model = fabric.setup(model)
    optimizer = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0))
    model.train()
    clock = Clock()
    for ids, _ in rows_of(job):
        row = torch.from_numpy(ids)[None]
        clock.start()
        logits = model(row)
        loss = chunked_cross_entropy(logits[:, :-1], row[:, 1:])
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        clock.stop(loss.detach())
    return clock.result()


WAYS = {
    "lit-long": (lit_long, {}, True),
    "lit-long, levers": (lit_long, {"levers": {"checkpointing": "selective", "tile_size": 4096}}, True),
    "transformers Trainer, documents apart": (transformers_trainer, {}, True),
    "TRL SFTTrainer, packing": (trl_sft, {}, True),
    "lit-long, one block": (lit_long, {"apart": False}, False),
    "transformers Trainer, one block": (transformers_trainer, {"apart": False}, False),
    "litgpt": (litgpt, {}, False),
    "litgpt, without torch.compile": (litgpt, {"compiled": False}, False),
}


DEFAULT_WAYS = [name for name in WAYS if name not in ("lit-long, one block", "litgpt, without torch.compile")]
PRODUCTS = "matrix products"


def matrix_products(job):
    """FLOP/s of a step's matrix products by themselves, forward and backward: what no training step can beat.

    Every matrix of one layer and the output layer, 2,048 tokens at a time, as one process with all threads.
    """
    import torch

    shape = json.loads(Path(job["model"], "config.json").read_text())
    width, key = shape["hidden_size"], shape["num_key_value_heads"] * shape["head_dim"]
    inner, layers, tokens = shape["intermediate_size"], shape["num_hidden_layers"], 2048
    matrices = [(width, width)] * 2 + [(width, key)] * 2 + [(width, inner)] * 2 + [(inner, width)]
    total = seconds = 0.0
    for (m, n), times in [*((matrix, layers) for matrix in matrices), ((width, shape["vocab_size"]), 1)]:
        x, w, g = torch.randn(tokens, m), torch.randn(n, m), torch.randn(tokens, n)
        found = []
        for _ in range(6):
            began = time.perf_counter()
            _ = x @ w.T, g @ w, g.T @ x
            found.append(time.perf_counter() - began)
        total += times * 6 * tokens * m * n
        seconds += times * sorted(found[1:])[2]
    return {"flops_a_second": total / seconds}


def run(name, job):
    """One way, in this process; memory beyond ``job["limit_gib"]`` is an allocation error and not the machine's end."""
    limit = int(job["limit_gib"] * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    os.environ["HF_HUB_OFFLINE"] = "1"
    if name == PRODUCTS:
        return matrix_products(job)
    function, options, _ = WAYS[name]
    return function(job, **options)
