"""fit through LightningCLI: recipes parse, mistakes are one message, a killed run goes on exactly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from lit_long.entry import main

ROOT = Path(__file__).parents[2]
RECIPES = sorted(
    p.relative_to(ROOT).as_posix() for folder in ("", "instruct/") for p in (ROOT / "recipes").glob(f"{folder}*.yaml")
)


@pytest.fixture
def recipe(tmp_path, corpus_dir, tiny_model_dir):
    """The quickstart's recipe, scaled down by an overlay."""
    overlay = {
        "model": {"model": str(tiny_model_dir), "context_length": 256},
        "data": {
            "class_path": "lit_long.data.PretrainData",
            "init_args": {"corpus": str(corpus_dir), "sequence_length": 256, "tokens_per_step": 1024},
        },
        "trainer": {
            "max_steps": 10,
            "val_check_interval": 8,
            "logger": {"class_path": "lit_long.loggers.JSONLLogger", "init_args": {"save_dir": str(tmp_path / "run")}},
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"every_n_train_steps": 2, "save_last": True, "enable_version_counter": False},
                }
            ],
        },
    }
    path = tmp_path / "overlay.yaml"
    path.write_text(yaml.safe_dump(overlay))
    return ["--config", str(ROOT / "recipes/quickstart.yaml"), "--config", str(path)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses_and_prints_its_configuration(name, capsys):
    overlays = [ROOT / "recipes/quickstart.yaml"] if name.endswith("_plain.yaml") else []
    arguments = [part for path in [*overlays, ROOT / name] for part in ("--config", str(path))]
    assert main(["fit", *arguments, "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    data = printed["data"]["init_args"]
    stages = data["schedule"]["stages"] if data.get("schedule") else [data]
    assert max(stage["sequence_length"] for stage in stages) <= printed["model"]["context_length"]
    assert printed["trainer"]["max_steps"] > 0


@pytest.mark.parametrize("arm", sorted(p.name for p in (ROOT / "recipes/instruct/table9").glob("*.yaml")))
def test_the_arms_of_table_9_lie_over_a_recipe(arm, capsys):
    configs = [ROOT / "recipes/instruct/70b_chat_16k.yaml", ROOT / "recipes/instruct/table9" / arm]
    assert main(["fit", *(part for path in configs for part in ("--config", str(path))), "--print_config"]) == 0
    data = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    assert set(data["weights"] or {"short": 1}) == {name for name, source in data["sources"].items() if source}
    assert data["sequence_length"] == 16_384
    assert data["input_loss"] == ("long" if arm.startswith("d_") else "none")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.rope", "Lineer"], "rope methods: "),
        (["--model.rope", "Linear", "--model.rope.factor", "0.5"], "at least 1, got 0.5"),
        (["--model.bogus", "1"], "--model.bogus"),
        (["--model.context_length", "128k"], "128k"),
        (["--data.corpus", "nowhere"], "nowhere: no token corpus"),
        (["--data.tokens_per_step", "1000"], "take 768 or 1024"),
        (["--model.context_length", "32"], "shorter than the model's native 64"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(recipe, arguments, message, capsys):
    assert main(["fit", *recipe, *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_the_last_step_is_saved_even_between_two_checkpoints(recipe, tmp_path, capsys):
    import torch

    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert main(["fit", *recipe, "--trainer.max_steps", "3"]) == 0  # the overlay saves every 2 steps
    assert torch.load(last, weights_only=True)["global_step"] == 3
    assert main(["fit", *recipe, "--trainer.max_steps", "5", "--ckpt_path", "last"]) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 5
    assert sorted(rows(tmp_path / "run")) == list(range(5))
    capsys.readouterr()
    assert main(["fit", *recipe, "--trainer.max_steps", "5", "--ckpt_path", "last"]) == 0  # nothing left to do
    assert torch.load(last, weights_only=True)["global_step"] == 5


def test_a_line_that_a_kill_kept_from_being_written_is_in_the_checkpoint(recipe, tmp_path):
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert main(["fit", *recipe, "--trainer.max_steps", "4"]) == 0
    before = rows(tmp_path / "run")
    lines = metrics.read_text().splitlines()
    metrics.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] < 3))
    assert main(["fit", *recipe, "--trainer.max_steps", "6", "--ckpt_path", "last"]) == 0
    after = rows(tmp_path / "run")
    assert list(after) == list(range(6))
    assert {step: after[step] for step in before} == before


def rows(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: (row["loss"], row["grad_norm"], row["lr"], row["tokens"]) for row in lines if "loss" in row}


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_it_had_not_been(recipe, tmp_path):
    command = [sys.executable, "-m", "lit_long.entry", "fit", *recipe]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run, straight = tmp_path / "run", tmp_path / "straight"
    subprocess.run([*command, "--trainer.logger.save_dir", str(straight)], check=True, env=environment)
    with subprocess.Popen([*command, "--data.seed", "0"], env=environment) as process:
        checkpoint = run / "checkpoints" / "last.ckpt"
        deadline = time.monotonic() + 300
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the run ended before it was killed; nothing was tested"
    # the recipe's own seed again: the data order is part of a run's identity
    result = subprocess.run(
        [*command, "--data.seed", "0", "--ckpt_path", "last"], check=True, env=environment, capture_output=True
    )
    assert b"resumed at step" in result.stderr
    subprocess.run(
        [*command, "--data.seed", "0", "--trainer.logger.save_dir", str(straight)], check=True, env=environment
    )
    assert rows(run) == rows(straight)
    assert list(rows(run)) == list(range(10))
