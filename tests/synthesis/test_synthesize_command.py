"""The command: what it refuses, what it prints, and a real chat model behind a real server."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import yaml
from scripted_server import completion, rows

from lit_long.entry import main

ROOT = Path(__file__).parents[2]


def write(tmp_path, **values):
    file = tmp_path / "s.yaml"
    base = {
        "tokenizer": "T",
        "sources": [{"path": "texts"}],
        "output": str(tmp_path / "out"),
        "generator": {"class_path": "Server", "base_url": "http://127.0.0.1:9/v1", "model": "m"},
    }
    file.write_text(yaml.safe_dump(base | values))
    return str(file)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"generator": {"base_url": "x"}}, "give class_path: Server or class_path: Local"),
        ({"generator": {"class_path": "Server", "model": "m"}}, "base_url"),
        ({"generator": {"class_path": "Server", "model": "m", "base_url": "localhost"}}, "give an address such as"),
        ({"generator": {"class_path": "Local", "model": "m", "api_key": "x"}}, "api_key"),
        ({"temperature": 1}, "temperature"),
        ({"target_length": "long"}, "target_length"),
        ({"questions": {"normal": -1}}, "questions.normal is -1"),
        ({"questions": {"normal": 0, "short": 0}}, "all weights are 0"),
        ({"checks": {"citation": "yes"}}, "citation"),
        ({"sampling": {"top_p": 0}}, "sampling.top_p is 0"),
        ({"shard": {"index": 3, "count": 3}}, "the index runs from 0 to count - 1"),
        ({"share": 0}, "share is 0"),
        ({"sources": []}, "missing sources"),
        ({"tokenizer": None}, "missing tokenizer"),
    ],
)
def test_mistakes_in_the_settings_are_one_message(tmp_path, capsys, values, message):
    assert main(["synthesize", "--config", write(tmp_path, **values)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_mistakes_in_the_flags(tmp_path, capsys):
    assert main(["synthesize", "--config", write(tmp_path), "--shard", "3"]) == 2
    assert "give I/N, such as 0/16" in capsys.readouterr().err
    assert main(["synthesize", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "No such file" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes" / "synthesis").glob("*.yaml")), ids=lambda p: p.name)
def test_recipes_are_understood(recipe):
    from argparse import Namespace

    from lit_long.cli.synthesize import _config

    config = _config(Namespace(config=str(recipe), shard="1/2"))
    assert config.shard.count == 2


@pytest.fixture
def chat_server(smollm2):
    """SmolLM2-135M-Instruct behind an OpenAI-compatible endpoint, by plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ids = tokenizer.apply_chat_template(
                body["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            with torch.inference_mode():
                out = model.generate(**ids, max_new_tokens=body["max_tokens"], do_sample=False)
            new = out[0, ids["input_ids"].shape[1] :]
            text = tokenizer.decode(new, skip_special_tokens=True)
            asked.append((body, text))
            answer = completion(text, "stop" if new[-1] == tokenizer.eos_token_id else "length")
            answer["usage"] = {"prompt_tokens": ids["input_ids"].shape[1], "completion_tokens": len(new)}
            raw = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()


@pytest.mark.slow
def test_a_real_chat_model_behind_a_server_and_in_process(chat_server, smollm2, books, tmp_path, capsys):
    url, asked = chat_server
    common = {
        "tokenizer": smollm2,
        "sources": [{"path": str(books)}],
        "target_length": 1024,
        "chunk_tokens": 80,
        "min_document_tokens": 512,
        "max_documents": 2,
        "sampling": {"temperature": 0, "max_tokens": 40, "check_max_tokens": 8},
    }
    generator = {"class_path": "Server", "base_url": url, "model": "smollm2", "tokenizer": smollm2, "concurrency": 1}
    file = write(tmp_path, **common, output=str(tmp_path / "served"), generator=generator)
    assert main(["synthesize", "--config", file, "--json"]) == 0
    served = json.loads(capsys.readouterr().out)
    assert served["questions"] == 2
    assert served["usage"]["requests"] == len(asked) >= 2
    assert served["outcomes"]["failed"] == served["outcomes"]["skipped"] == 0
    # what was counted beforehand is what the server counted: the chunk fits
    assert all(len(body["messages"]) == 1 and text for body, text in asked)
    local = {"class_path": "Local", "model": smollm2, "dtype": "float32", "concurrency": 1}
    file = write(tmp_path, **common, output=str(tmp_path / "local"), generator=local)
    assert main(["synthesize", "--config", file, "--json"]) == 0
    inside = json.loads(capsys.readouterr().out)
    # the same model, greedy: the same replies, pairs and cost by either way
    for key in ("outcomes", "rejected", "usage"):
        assert inside[key] == served[key]
    assert [row["messages"] for row in rows(tmp_path / "local")] == [
        row["messages"] for row in rows(tmp_path / "served")
    ]
