"""Every recipe and overlay trains two steps in small: its own YAML, a tiny model of its family."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from lit_long.cli.recipes import find_recipes
from lit_long.entry import main

ROOT = Path(__file__).parents[2] / "recipes"
ALL = {recipe.name: recipe for recipe in find_recipes(ROOT)}
RECIPES = [name for name, recipe in ALL.items() if recipe.kind == "recipe" and not name.startswith("instruct/")]
OTHERS = ("instruct/", "synthesis/")  # tried by tests/data/instruct/test_instruct_recipes.py and tests/synthesis


def _under(name):
    """The recipe (and overlay) that an overlay is laid over here."""
    small = "models/smollm2_360m_32k.yaml"
    if name == "quickstart_plain.yaml":
        return ["quickstart.yaml"]
    if name.startswith("configs/"):
        size = name.removeprefix("configs/llama2_").removesuffix(".yaml")
        return [f"paper/{size}_{'32k' if size in ('7b', '13b') else '16k'}.yaml"]
    if name.startswith("ablations/curriculum/"):
        return ["paper/curriculum_7b.yaml"]
    return [small, "mixtures/texts.yaml"] if name.startswith("ablations/data_mix/") else [small]


OVERLAYS = [name for name, recipe in ALL.items() if recipe.kind == "overlay" and not name.startswith(OTHERS)]
LENGTH = 256
# the family's model type, native length and base of each model that a recipe names; a tiny model stands in for it
NATIVE = {
    "meta-llama/Llama-2": ("llama", 4_096, 10_000.0),
    "models/Llama-2": ("llama", 4_096, 10_000.0),
    "meta-llama/Meta-Llama-3-8B": ("llama", 8_192, 500_000.0),
    "meta-llama/Llama-3.1-8B": ("llama", 131_072, 500_000.0),
    "Qwen/Qwen3-8B": ("qwen3", 32_768, 1_000_000.0),
    "mistralai/Mistral-7B-v0.3": ("mistral", 32_768, 1_000_000.0),
    "HuggingFaceTB/SmolLM2-1.7B": ("llama", 8_192, 130_000.0),
    "HuggingFaceTB/SmolLM2": ("llama", 8_192, 100_000.0),
    "recipes/assets/quickstart/base": ("llama", 256, 10_000.0),
}


def merged(below, above):
    """What several --config make of each other."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: merged(below.get(key), value) for key, value in above.items()}


def read(names):
    whole = {}
    for name in names:
        whole = merged(whole, yaml.safe_load((ROOT / name).read_text()))
    return whole


@pytest.fixture(scope="module")
def stand_in(tiny_config, tokenizer_dir, tmp_path_factory):
    """Folder of a tiny model of a Hub model's family; its native length has the real one's share of the recipe's."""
    from transformers import AutoConfig, AutoModelForCausalLM

    made = {}

    def build(name, context):
        model_type, native, base = next(value for key, value in NATIVE.items() if name.startswith(key))
        native = max(8, LENGTH * native // context)
        rope = {"rope_type": "default", "rope_theta": base}
        if "3.1" in name:
            rope |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            rope["original_max_position_embeddings"] = native // 16
        key = (model_type, native, json.dumps(rope))
        if key not in made:
            folder = tmp_path_factory.mktemp("family") / model_type
            values = tiny_config | {
                "model_type": model_type,
                "max_position_embeddings": native,
                "rope_parameters": rope,
            }
            values |= {"sliding_window": None} if model_type == "mistral" else {}  # as v0.3 has it
            AutoModelForCausalLM.from_config(AutoConfig.for_model(**values)).save_pretrained(folder)
            for file in Path(tokenizer_dir).glob("tokenizer*.json"):
                shutil.copy(file, folder)
            made[key] = str(folder)
        return made[key]

    return build


@pytest.fixture
def small(stand_in, tiny_config, tokenizer_dir, corpus_dir, tmp_path):
    """Writes the overlay that makes a recipe small: 256 tokens in place of its length, two steps, one CPU process."""

    def scaled_down(names):
        whole = read(names)
        model, data = whole["model"], whole["data"]["init_args"]
        scale = model["context_length"] // LENGTH
        overlay = {
            "model": {"context_length": LENGTH, "optimizer": {"warmup_steps": 1}},
            "data": {
                "class_path": whole["data"]["class_path"],
                "init_args": {"tokens_per_step": 2 * LENGTH, "micro_batch": 1, "validation_sequences": 1},
            },
            "trainer": {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "precision": "32-true", "max_steps": 2},
        }
        inside = overlay["data"]["init_args"]
        if model.get("model"):
            overlay["model"]["model"] = stand_in(model["model"], model["context_length"])
        else:
            rope = model["model_config"]["rope_parameters"]
            native = max(8, model["model_config"]["max_position_embeddings"] // scale)
            overlay["model"]["model_config"] = tiny_config | {
                "max_position_embeddings": native,
                "rope_parameters": rope,
            }
            overlay["model"]["tokenizer"] = tokenizer_dir
        if data.get("schedule"):
            overlay["trainer"]["max_steps"] = 5  # a step at least in each stage
            stages = data["schedule"]["stages"]
            longest = max(stage["sequence_length"] for stage in stages)
            lengths = [LENGTH * stage["sequence_length"] // longest for stage in stages]
            inside["schedule"] = {
                "stages": [
                    {key: value for key, value in stage.items() if key == "until"} | {"sequence_length": length}
                    for stage, length in zip(stages, lengths, strict=True)
                ]
            }
        else:
            inside["sequence_length"] = LENGTH
        if data.get("mixture"):
            sources = data["mixture"]["sources"]
            inside["mixture"] = {"sources": {name: {"corpus": corpus_dir, "source": None} for name in sources}}
        else:
            inside["corpus"] = corpus_dir
        if "strategy" in whole["trainer"]:
            overlay["trainer"]["strategy"] = {
                "class_path": whole["trainer"]["strategy"]["class_path"],
                "init_args": {"context_parallel_size": 1, "param_dtype": "float32"},
            }
        overlay["trainer"]["logger"] = {
            "class_path": "lit_long.loggers.JSONLLogger",
            "init_args": {"save_dir": str(tmp_path / "run")},
        }
        overlay["trainer"]["callbacks"] = []
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(overlay))
        return [part for name in names for part in ("--config", str(ROOT / name))] + ["--config", str(path)]

    return scaled_down


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_says_what_it_is(name):
    recipe = ALL[name]
    assert recipe.size
    assert recipe.length
    assert recipe.hardware
    whole = read([name])
    data = whole["data"]["init_args"]
    longest = (
        max(s["sequence_length"] for s in data["schedule"]["stages"])
        if data.get("schedule")
        else data["sequence_length"]
    )
    assert f"{longest:,}" in recipe.length
    assert data["tokens_per_step"] % longest == 0


@pytest.fixture
def alone():
    """A strategy's process group ends with its test."""
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RECIPES, *OVERLAYS])
def test_recipe_trains_two_steps_in_small(name, small, alone, tmp_path):
    names = [*_under(name), name] if name in OVERLAYS else [name]
    assert main(["fit", *small(names)]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) in (2, 5)
    assert all(0 < loss < 20 for loss in losses)


def test_papers_sizes_are_as_published():
    for size, length, rate in (
        ("7b", 32_768, 2e-5),
        ("13b", 32_768, 2e-5),
        ("34b", 16_384, 1e-5),
        ("70b", 16_384, 1e-5),
    ):
        whole = read([f"paper/{size}_{length // 1024}k.yaml"])
        data, model = whole["data"]["init_args"], whole["model"]
        assert (data["sequence_length"], model["context_length"], data["tokens_per_step"]) == (length, length, 2**22)
        assert (model["optimizer"]["learning_rate"], model["optimizer"]["warmup_steps"]) == (rate, 2000)
        assert model["rope"] == {"class_path": "lit_long.rope.ABF", "init_args": {"base": 500_000}}
        assert whole["trainer"]["max_steps"] == 100_000


@pytest.mark.parametrize(
    "name", [name for name, recipe in ALL.items() if recipe.kind == "data" and name != "data/cleaned.yaml"]
)
def test_data_recipe_is_a_configuration_of_prepare(name):
    from argparse import ArgumentParser

    from lit_long.cli import prepare

    parser = ArgumentParser()
    prepare.add_arguments(parser)
    config = prepare.read_config(parser.parse_args(["--config", str(ROOT / name)]))
    assert config.sources


def test_list_as_json_and_one_recipe(capsys):
    assert main(["recipes", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert listed["70b_32k.yaml"]["size"] == "70B"
    assert listed["ablations/curriculum/d_switch_80.yaml"]["kind"] == "overlay"
    assert main(["recipes", "recipes/70b_32k"]) == 0
    assert capsys.readouterr().out == (ROOT / "70b_32k.yaml").read_text()
    assert main(["recipes", "70b_32"]) == 2
    assert "did you mean 70b_32k.yaml" in capsys.readouterr().err


def test_listing_loads_nothing_heavy():
    code = "import sys; from lit_long.entry import main; main(['recipes']); print(sorted(sys.modules), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "70b_32k" in result.stdout
    assert not {"'torch'", "'yaml'", "'lightning'", "'rich'"} & set(result.stderr.strip("[]\n").split(", "))


def test_copy_does_not_write_over_anything(tmp_path, capsys):
    assert main(["recipes", "--copy", str(tmp_path)]) == 0
    assert (tmp_path / "recipes" / "paper" / "7b_32k.yaml").read_text() == (ROOT / "paper" / "7b_32k.yaml").read_text()
    assert main(["recipes", "--copy", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
