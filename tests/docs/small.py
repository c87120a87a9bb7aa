"""What makes the examples of a page small enough to run: other words in its text, and the names that it assumes.

A page without an entry runs as it is printed.
"""

from typing import Any

# text -> text, before a block is run; {tiny}, {chat}: folders of small models for two names on the Hub
ANYWHERE = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": "{chat}",
    "HuggingFaceTB/SmolLM2-135M": "{tiny}",
}
WORDS = {
    "docs/plugin.md": {
        "max_steps=10": "max_steps=1, accelerator='cpu', enable_progress_bar=False, default_root_dir='runs'",
        "devices=8": "devices=1",
        "context_parallel_size=8": "context_parallel_size=1",
        "8192": "256",
        "32_768": "512",
        "2048": "128",
        "every_n_steps=5": "every_n_steps=1",
        "native_length=256": "native_length=64",
        # the release at the end has tests of its own: tests/release/test_export_on_end.py
        'ExportOnEnd("runs/mine/release")]': 'ExportOnEnd("runs/mine/release")], fast_dev_run=True',
    },
    "docs/data/prepare.md": {
        'tokenizer="..."': 'tokenizer="{tiny}"',
        "rank=3, world_size=16": "rank=0, world_size=1",
        "document(7)": "document(0)",
        "span(7, 1_000, 33_768)": "span(0, 1_000, 3_000)",
    },
    "docs/data/many_machines.md": {
        "/shared/models/base": "{tiny}",
        "/shared/": "",
        "rank=3, world_size=64": "rank=0, world_size=1",
    },
}
ELSEWHERE = {"docs/evaluation_tasks.md": "tests/evaluation/benchmarks/test_benchmark_docs.py"}


def names_of(page: str, tiny: str) -> dict[str, Any]:
    """What the text of a page has introduced in words, or leaves to the reader's own project."""
    if page == "docs/parallel.md":
        import torch

        return {"torch": torch}
    if page != "docs/attention.md":
        return {}
    import torch
    from lightning.pytorch import Trainer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    ids = torch.randint(0, 4000, (1, 48))
    return {
        "Trainer": Trainer,
        "model": model,
        "ids": ids,
        "positions": torch.cat([torch.arange(30), torch.arange(18)])[None],
        "hidden": torch.randn(1, 48, model.config.hidden_size, requires_grad=True),
        "lm_head": model.lm_head,
        "target_ids": ids.roll(-1),
        "target_weights": torch.ones(1, 48),
        "step_target_weight": 48.0,
    }
