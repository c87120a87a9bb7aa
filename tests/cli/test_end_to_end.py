"""The whole way of the quickstart on a tiny model: text, corpus, fit, evaluate, export, plain transformers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_long.entry import main

ROOT = Path(__file__).parents[2]

READER = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = torch.tensor([json.loads(sys.argv[2])])
with torch.no_grad():
    logits = model(input_ids=ids).logits[0, -1]
print(json.dumps({"logits": logits[:50].tolist(), "theta": model.config.rope_parameters["rope_theta"],
                  "limit": tokenizer.model_max_length, "lit_long": "lit_long" in sys.modules}))
"""


@pytest.mark.slow
def test_from_text_to_a_folder_for_plain_transformers(books, tokenizer_dir, tiny_model_dir, tmp_path, capsys):
    corpus, run = tmp_path / "corpus", tmp_path / "run"
    ids = [json.loads(line)["id"] for line in Path(books).read_text().splitlines()]
    arguments = ["--source", str(books), "--tokenizer", str(tokenizer_dir), "--output", str(corpus)]
    assert main(["prepare", *arguments, "--held-out", ids[0]]) == 0
    assert "held_out: 1 documents" in capsys.readouterr().out

    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        yaml.safe_dump(
            {
                "model": {"model": str(tiny_model_dir), "context_length": 512},
                "data": {
                    "class_path": "lit_long.data.PretrainData",
                    "init_args": {"corpus": str(corpus), "sequence_length": 512, "tokens_per_step": 2048},
                },
                "trainer": {
                    "max_steps": 6,
                    "val_check_interval": 6,
                    "logger": {"class_path": "lit_long.loggers.JSONLLogger", "init_args": {"save_dir": str(run)}},
                },
            }
        )
    )
    assert main(["fit", "--config", str(ROOT / "recipes/quickstart.yaml"), "--config", str(overlay)]) == 0
    shown = capsys.readouterr()
    assert "step 6/6" in shown.out + shown.err
    assert "held-out loss" in shown.out + shown.err
    checkpoint = str(run / "checkpoints" / "last.ckpt")

    report = tmp_path / "report"
    command = [f"base={tiny_model_dir}", f"abf={checkpoint}", "--corpus", str(corpus), "--length", "512"]
    assert main(["evaluate", *command, "--windows", "4", "--output", str(report)]) == 0
    assert {"report.md", "report.json", "loss_by_position.png"} <= {p.name for p in report.iterdir()}
    assert json.loads((report / "report.json").read_text())

    folder = tmp_path / "model"
    capsys.readouterr()
    command = [checkpoint, "--output", str(folder), "--report", str(report / "report.md"), "--license", "apache-2.0"]
    assert main(["export", *command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] > 0

    prompt = list(range(5, 205))  # longer than the native 64
    reader = [sys.executable, "-P", "-c", READER, str(folder), json.dumps(prompt)]
    seen = json.loads(subprocess.run(reader, check=True, capture_output=True, text=True, cwd=tmp_path).stdout)
    assert seen["theta"] == 500_000.0
    assert seen["limit"] == 512
    assert not seen["lit_long"]

    import torch

    from lit_long.model import load_for_inference

    assert load_for_inference(str(folder)).native_length == 64, "the length before scaling"
    with torch.no_grad():
        logits = load_for_inference(checkpoint).model(torch.tensor([prompt])).logits[0, -1, :50]
    assert seen["logits"] == pytest.approx(logits.tolist(), abs=1e-4)
    card = (folder / "README.md").read_text()
    assert "500,000" in card or "500000" in card
    assert str(tmp_path) not in card
