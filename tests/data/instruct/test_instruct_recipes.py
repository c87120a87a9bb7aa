"""Each recipe and overlay of instruction tuning trains two steps in small: its own YAML, a tiny model, few chats."""

import json
from pathlib import Path

import pytest
import yaml

from lit_long.cli.recipes import find_recipes
from lit_long.data.prepare import PrepareConfig, prepare
from lit_long.data.sources import Source
from lit_long.entry import main

ROOT = Path(__file__).parents[3] / "recipes"
LENGTH = 256
FOUND = [recipe for recipe in find_recipes(ROOT) if recipe.name.startswith("instruct/")]
RECIPES = [recipe.name for recipe in FOUND if recipe.kind == "recipe"]
OVERLAYS = [recipe.name for recipe in FOUND if recipe.kind == "overlay"]
UNDER = "instruct/70b_chat_16k.yaml"  # that the overlays are laid over


def source(asked, chats, corpus):
    """A source's own options, with data that are there."""
    if "corpus" in asked:
        return asked | {"corpus": corpus}
    return asked | {"path": str(chats / ("long.jsonl" if asked.get("long") else "short.jsonl"))}


@pytest.fixture(scope="module")
def pretraining_text(books, chat_model, tmp_path_factory):
    """A corpus of the chat model's own tokenizer."""
    folder = tmp_path_factory.mktemp("pretrain") / "corpus"
    prepare(PrepareConfig(tokenizer=chat_model, sources=(Source(path=str(books)),), output=str(folder)))
    return str(folder)


def test_none_is_left_out():
    assert {"instruct/70b_chat_16k.yaml", "instruct/8b_lora_32k.yaml", "instruct/smollm2_cpu.yaml"} == set(RECIPES)
    assert len([name for name in OVERLAYS if name.startswith("instruct/table9/")]) == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RECIPES, *OVERLAYS])
def test_instruction_recipe_trains_two_steps_in_small(name, chats, chat_model, pretraining_text, tmp_path):
    names = [UNDER, name] if name in OVERLAYS else [name]
    whole = [yaml.safe_load((ROOT / each).read_text()) for each in names]
    data = {key: value for each in whole for key, value in each["data"]["init_args"].items()}
    small = {
        "model": {"model": chat_model, "context_length": LENGTH, "optimizer": {"warmup_steps": 1}},
        "data": {
            "class_path": "lit_long.data.InstructData",
            "init_args": {
                "sources": {key: source(asked, chats, pretraining_text) for key, asked in data["sources"].items()},
                "sequence_length": LENGTH,
                "tokens_per_step": 4 * LENGTH,
                "micro_batch": 1,
                "cache": str(tmp_path / "cache"),
                "max_epochs": 100,
                "held_out_share": 0.0,
            },
        },
        "trainer": {
            "accelerator": "cpu", "devices": 1, "precision": "32-true", "max_steps": 2, "callbacks": [],
            "logger": {"class_path": "lit_long.loggers.JSONLLogger", "init_args": {"save_dir": str(tmp_path / "run")}},
        },
    }  # fmt: skip
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small))
    configs = [part for each in names for part in ("--config", str(ROOT / each))]
    assert main(["fit", *configs, "--config", str(path)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)
