"""What ``gpu.py`` measures, each in a process of its own."""

import time

LLAMA = {"model_type": "llama", "vocab_size": 128_256, "rope_theta": 500_000.0, "rms_norm_eps": 1e-5}
SHAPES = {
    "3b": {
        "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": False,
    },
    "1b": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "tie_word_embeddings": True,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": True, "vocab_size": 512,
    },
}  # fmt: skip


def document_lengths(length):
    """Documents of a packed row: lognormal, mean about 4,000 tokens, drawn once."""
    import numpy as np

    found, left, random = [], length, np.random.default_rng(0)
    while left:
        found.append(int(min(left, max(16, random.lognormal(7.2, 1.5)))))
        left -= found[-1]
    return found


def row_of(length, vocabulary, lengths):
    """A packed batch of one row of random tokens."""
    import torch

    ids = torch.randint(0, vocabulary, (1, length), generator=torch.Generator().manual_seed(0))
    ends = torch.tensor(lengths).cumsum(0)
    targets = ids.roll(-1, 1)
    targets[0, ends - 1] = -100
    return {
        "input_ids": ids,
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "target_ids": targets,
        "cu_seqlens": torch.cat([torch.zeros(1, dtype=torch.int64), ends]).int(),
        "max_seqlen": max(lengths),
        "step_target_weight": float((targets != -100).sum()),
    }


def step(job):
    """Training steps of lit-long through Lightning: medians of what Throughput logs, and the kernels that ran."""
    import torch
    from lightning.pytorch import Callback, LightningDataModule, Trainer

    from lit_long import LongContextModule
    from lit_long.attention import attention_report
    from lit_long.callbacks import Throughput
    from lit_long.data.schedule import LengthSchedule, Stage
    from lit_long.model import Levers, LoraSettings
    from lit_long.model.forward import unwrapped
    from lit_long.optim import OptimizerSettings

    shape = LLAMA | SHAPES[job["shape"]] | {"max_position_embeddings": job["length"]}
    batch = row_of(job["length"], shape["vocab_size"], document_lengths(job["length"]))
    spans = LengthSchedule((Stage(sequence_length=job["length"]),)).spans(
        steps=job["steps"], tokens_per_step=job["length"], micro_batch=1
    )

    class Data(LightningDataModule):
        def __init__(self):
            super().__init__()
            self.spans, self.sequence_length = spans, job["length"]

        def train_dataloader(self):
            return torch.utils.data.DataLoader([batch] * job["steps"], batch_size=None)

    logged = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer, *_):
            logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    options = {"model_config": shape}
    if job.get("lora"):  # adapters need a base with weights, of this process' own
        options = {"model": _saved(shape, job["work"]), "lora": LoraSettings()}
    module = LongContextModule(
        context_length=job["length"],
        levers=Levers(**job["levers"]),
        optimizer=OptimizerSettings(warmup_steps=0, states=job.get("states", "float32")),
        **options,
    )
    trainer = Trainer(
        accelerator="gpu" if gpu else "cpu", devices=1, precision="bf16-mixed" if gpu else "32-true",
        max_steps=job["steps"], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, gradient_clip_val=1.0, use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[Throughput(window=1), Keep()],
    )  # fmt: skip
    trainer.fit(module, Data())
    rates = sorted(row["tokens_per_second"] for row in logged[1:])
    middle = rates[len(rates) // 2]
    last = logged[-1]
    return {
        "tokens_per_second": middle,
        "mfu": last["mfu"] / last["tokens_per_second"] * middle if "mfu" in last else None,
        "tflops_per_second": last["tflops_per_second"] / last["tokens_per_second"] * middle,
        "peak_memory_gib": max(row["peak_memory_gib"] for row in logged),
        "levers": str(module.built.levers),
        "attention": str(attention_report(unwrapped(module.model))),
    }


def _saved(shape, folder):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    options = dict(shape)
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(f"{folder}/base")
    return f"{folder}/base"


def kernels(job):
    """Attention of one layer, forward and backward, and the rate of matrix products, in TFLOP/s."""
    import torch

    from lit_long.attention.backends import BACKENDS, AttentionCase
    from lit_long.attention.boundaries import Boundaries
    from lit_long.attention.probe import milliseconds, numerics

    gpu = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if gpu else torch.float32
    lengths = document_lengths(job["length"]) if job["packed"] else [job["length"]]
    heads, kv, dim, tokens = job["heads"], job["kv_heads"], job["head_dim"], job["length"]
    cuts = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    bounds = Boundaries(cuts, 1, tokens, max(lengths))
    case = AttentionCase(
        device=device, dtype=dtype, heads=heads, kv_heads=kv, head_dim=dim, value_dim=dim,
        packed=len(lengths) > 1, dropout=False,
    )  # fmt: skip
    states = tuple(torch.randn(1, tokens, n, dim, device=device, dtype=dtype) for n in (heads, kv, kv))
    pairs = sum(n * (n + 1) / 2 for n in lengths)
    flops = 3 * 4 * pairs * heads * dim  # as lit_long.flops counts: twice the forward for the backward pass
    found = {}
    for name, backend in BACKENDS.items():
        if (why := backend.why_not(case) or numerics(backend, case)) is not None:
            found[name] = {"refused": why}
            continue
        taken = milliseconds(backend, states, bounds, None)
        found[name] = {"milliseconds": taken, "tflops_per_second": flops / taken / 1e9}
    return {
        "backends": found,
        "matmul_tflops_per_second": _matmul(job["matrix"], device, dtype),
        "documents": len(lengths),
    }


def _matmul(size, device, dtype):
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e12


def peer(job):
    """The same row through transformers' Trainer or TRL, with gradient checkpointing, as their documentation does.

    Packed documents mean flash attention there; where it is not installed, SDPA gets a square mask (``attention``).
    """
    from importlib.util import find_spec

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    shape = LLAMA | SHAPES[job["shape"]] | {"max_position_embeddings": job["length"]}
    lengths = document_lengths(job["length"])
    row = row_of(job["length"], shape["vocab_size"], lengths)
    gpu = torch.cuda.is_available()
    seconds = []

    class Timer(TrainerCallback):
        def on_step_begin(self, *_, **__):
            if gpu:
                torch.cuda.synchronize()
            self.began = time.perf_counter()

        def on_step_end(self, *_, **__):
            if gpu:
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - self.began)

    common = {
        "output_dir": job["work"], "max_steps": job["steps"], "per_device_train_batch_size": 1, "report_to": "none",
        "save_strategy": "no", "bf16": gpu, "use_cpu": not gpu, "gradient_checkpointing": True, "disable_tqdm": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }  # fmt: skip
    options = dict(shape)
    config = AutoConfig.for_model(options.pop("model_type"), **options)
    flash = gpu and find_spec("flash_attn") is not None
    attention = "flash_attention_2" if flash else "sdpa"
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    if job["way"] == "TRL SFTTrainer":
        import datasets
        from transformers import PreTrainedTokenizerFast
        from trl import SFTConfig, SFTTrainer

        data = datasets.Dataset.from_dict(
            {"input_ids": [row["input_ids"][0].tolist()] * job["steps"], "seq_lengths": [lengths] * job["steps"]}
        )
        arguments = SFTConfig(
            **common, packing=True, max_length=job["length"], dataset_kwargs={"skip_prepare_dataset": True}
        )
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=data, callbacks=[Timer()],
            processing_class=PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), pad_token="0", eos_token="0"),
        )  # fmt: skip
    else:
        labels = row["input_ids"].clone()
        labels[0, row["cu_seqlens"][:-1].long()] = -100
        item = {"input_ids": row["input_ids"][0], "position_ids": row["position_ids"][0], "labels": labels[0]}
        trainer = Trainer(
            model=model, args=TrainingArguments(**common), train_dataset=[item] * job["steps"], callbacks=[Timer()]
        )
    trainer.train()
    rates = sorted(job["length"] / taken for taken in seconds[1:])
    peak = torch.cuda.max_memory_allocated() / 2**30 if gpu else None
    return {"tokens_per_second": rates[len(rates) // 2], "peak_memory_gib": peak, "attention": attention}


def _tokenizer():
    from tokenizers import Tokenizer, models

    return Tokenizer(models.WordLevel({"0": 0}, unk_token="0"))


MEASURES = {"step": step, "kernels": kernels, "peer": peer}
