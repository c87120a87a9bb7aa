"""docs/evaluation_tasks.md: its commands are understood, its preference commands and its Python example run."""

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_long.cli.benchmark import COMMAND
from lit_long.entry import main
from lit_long.evaluation.benchmarks.plan import make_plan
from lit_long.evaluation.harness import run as harness_run
from lit_long.evaluation.harness.score import HarnessScore

PAGE = Path(__file__).parents[3] / "docs" / "evaluation_tasks.md"


@pytest.fixture(scope="module")
def page():
    if not PAGE.is_file():
        pytest.skip("installed without its docs")
    return PAGE.read_text(encoding="utf-8")


def commands(page, word):
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in blocks.splitlines() if line.startswith(f"lit-long {word}")]


def test_benchmark_commands_and_task_names(page):
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    [command] = commands(page, "benchmark")
    args = parser.parse_args(command[1:])
    plan = make_plan(args.tasks, args.max_length, allow_code=args.allow_code)
    assert (len(plan.long), len(plan.short), plan.caps) == (4, 15, [4096, 16384])
    table = page[page.index("| `--tasks`") : page.index("One task of a group")]
    names = re.findall(r"`([a-z_]+)`", "".join(row.split("|")[1] for row in table.splitlines()[2:] if "|" in row))
    assert len(names) == 8
    make_plan([name for name in names if name != "red_team"], [4096], allow_code=True)


def test_preference_commands_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("long", "base"):
        row = {"id": "1", "prompt": "p", "answer": name}
        Path(f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    export, read = commands(page, "preference")
    assert main(export) == 0
    sheet = Path("runs/preference/rater-1.jsonl")
    sheet.write_text(json.dumps(json.loads(sheet.read_text()) | {"better": "tie"}) + "\n")
    assert main(read) == 0
    assert "| long vs base, % | 0.0 [0.0, 79.3] | 100.0" in capsys.readouterr().out


def test_python_example_runs(page, tiny_model_dir, monkeypatch, capsys):
    """With the harness's own call in place of a download: names, shots and limit reach it."""
    asked = []

    def evaluate(self, task, **options):
        asked.append((task.name, task.shots, options["limit"]))
        return HarnessScore(task=task, metric="acc,none", value=50.0, rows={}, parts={}, shots=0, cut=0, versions={})

    monkeypatch.setattr(harness_run._Harness, "run", evaluate)
    monkeypatch.setattr(harness_run, "_task_manager", lambda include_path: None)
    [example] = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    exec(
        compile(example, str(PAGE), "exec"),
        {"model": model, "tokenizer": AutoTokenizer.from_pretrained(tiny_model_dir)},
    )
    assert asked == [("piqa", 0, 100), ("nq_open", 1, 100)]
    assert capsys.readouterr().out.strip().endswith("50.0 {}")
