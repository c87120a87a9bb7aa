"""Instruction tuning from the command line, on a real chat model: view, train, and go on after a kill."""

import json
from pathlib import Path

import pytest
import yaml

from lit_long.entry import main

ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path, smollm2, books):
    """The small recipe with questions about real books, two steps of 512 tokens."""
    folder = tmp_path / "pairs"
    folder.mkdir()
    texts = [json.loads(line)["text"] for line in books.read_text().splitlines()]
    with (folder / "pairs.jsonl").open("w") as out:
        for number in range(12):
            stretch = texts[number % 2][3000 * number : 3000 * number + 1200]
            question = f'"""{stretch}"""\n\nQuestion: which are its first words?'
            messages = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": " ".join(stretch.split()[:5])},
            ]
            out.write(json.dumps({"messages": messages, "document": f"book {number}"}) + "\n")
    overlay = {
        "model": {"model": smollm2},
        "data": {
            "class_path": "lit_long.data.InstructData",
            "init_args": {
                "sources": {"long": {"path": str(folder), "long": True, "too_long": "truncate"}},
                "sequence_length": 384,
                "tokens_per_step": 768,
                "cache": str(tmp_path / "cache"),
            },
        },
        "trainer": {
            "max_steps": 2,
            "val_check_interval": 4,
            "enable_checkpointing": False,
            "callbacks": [],
            "logger": {"class_path": "lit_long.loggers.JSONLLogger", "init_args": {"save_dir": str(tmp_path / "run")}},
        },
    }
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    return ["--config", str(ROOT / "recipes/instruct/smollm2_cpu.yaml"), "--config", str(tmp_path / "overlay.yaml")]


def test_train_on_a_real_chat_model(recipe, tmp_path, capsys):
    assert main(["fit", *recipe]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 2
    assert all(1.0 < loss < 5.0 for loss in losses)  # a trained model: chance would be ln 49,152 = 10.8
    assert any("val_loss" in row for row in rows)
    assert "12 rows" in capsys.readouterr().err


def test_view_shows_what_counts(recipe, capsys):
    assert main(["view", *recipe, "--example", "3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    text = "".join(segment["text"] for segment in shown["segments"])
    assert text.startswith("<|im_start|>system\n")
    answers = [segment for segment in shown["segments"] if segment["assistant"]]
    assert [a["text"].endswith("<|im_end|>") for a in answers] == [True]
    assert {segment["weight"] for segment in shown["segments"][1:]} == {1.0}  # input_loss: long
    assert main(["view", *recipe, "--example", "3"]) == 0
    captured = capsys.readouterr()
    assert "which are its first words?" in captured.out
    assert "of the assistant" in captured.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--example", "99"], "has examples 0 to"),
        (["--source", "nothing"], "the sources of chats are ['long']"),
        (["--config", str(ROOT / "recipes/quickstart.yaml")], "this command reads InstructData"),
        (["--config", "nowhere.yaml"], "No such file"),
    ],
)
def test_mistakes_of_view(recipe, arguments, says, capsys):
    assert main(["view", *recipe, *arguments]) == 2
    assert says in capsys.readouterr().err
