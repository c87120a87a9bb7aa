import argparse
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from evaluation_stubs import random_corpus, tiny_llama

from lit_long.cli.evaluate import COMMAND, parse_models
from lit_long.errors import UserError


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command on a corpus and models in memory; returns the exit code."""
    models = {"base": tiny_llama(0), "abf": tiny_llama(1)}
    for name in models:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    splits = []

    def corpus(path, split="train"):
        splits.append(split)
        return random_corpus([1000, 900, 100])

    def load(path):
        name = path.rstrip("/").rpartition("/")[2]
        return SimpleNamespace(model=models[name], native_length={"base": 128, "abf": 256}[name], source={"path": path})

    monkeypatch.setitem(sys.modules, "lit_long.data", SimpleNamespace(TokenCorpus=corpus))
    monkeypatch.setitem(sys.modules, "lit_long.model", SimpleNamespace(load_for_inference=load))
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        parser = argparse.ArgumentParser()
        COMMAND.add_arguments(parser)
        return COMMAND.run(parser.parse_args([*arguments, "--corpus", "books", "--device", "cpu"]))

    call.splits = splits
    return call


def test_results_on_stdout_progress_on_stderr(run, tmp_path, capsys):
    assert run("before=base", "abf/", "--length", "256", "--windows", "4", "--output", "out") == 0
    out, err = capsys.readouterr()
    assert run.splits == ["held_out"]
    header = next(line for line in out.splitlines() if line.startswith("| positions"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["positions", "before", "abf"]
    assert "Native length 128" in out  # the smaller of the two
    assert "1 shorter documents skipped" in err
    assert "1 shorter documents skipped" not in out
    for name in ("report.json", "report.md", "loss_by_position.png", "context_gain.png", "raw/before.safetensors"):
        assert (tmp_path / "out" / name).is_file(), name
    assert "out/report.json" in out


def test_json_is_alone_on_stdout(run, tmp_path, capsys):
    run(
        "base", "--length", "256", "--windows", "2", "--output", "out", "--json", "--no-context-gain", "--native", "200"
    )
    content = json.loads(capsys.readouterr().out)
    assert content == json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["native_length"] == 200
    assert content["models"][0]["context_gain"] is None
    assert not (tmp_path / "out" / "context_gain.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base", "--length", "64"], "at least 128"),
        (["base", "--length", "256", "--windows", "0"], "--windows 0"),
        (["base", "--length", "256", "--batch-size", "-1"], "--batch-size -1"),
        (["base", "--length", "256", "--seed", "-1"], "--seed -1"),
        (["base", "--length", "5000"], "longest has 1,000 tokens"),
        (["base", "--length", "256", "--first-token", "64"], "token id 64"),
        (["x=base", "x=abf", "--length", "256"], "Two models are called 'x'"),
        (["a b=base", "--length", "256"], "not \\[NAME=\\]MODEL"),
    ],
)
def test_mistakes_are_user_errors(run, arguments, message):
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_names_of_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "epoch=0-step=9.ckpt").write_bytes(b"")
    assert parse_models(["runs/base/", "org/some-model", "abf=runs/a=b/last.ckpt"]) == [
        ("base", "runs/base/"),
        ("some-model", "org/some-model"),
        ("abf", "runs/a=b/last.ckpt"),
    ]
    # Lightning's own checkpoint names hold '='
    assert parse_models(["epoch=0-step=9.ckpt"]) == [("epoch-0-step-9", "epoch=0-step=9.ckpt")]
    assert parse_models(["runs/epoch=1-step=2.ckpt"]) == [("epoch-1-step-2", "runs/epoch=1-step=2.ckpt")]


def test_help_needs_the_standard_library_only():
    code = (
        "import sys, argparse; from lit_long.cli.evaluate import COMMAND; p = argparse.ArgumentParser();"
        "COMMAND.add_arguments(p); p.format_help();"
        "print([m for m in ('torch', 'numpy', 'transformers', 'rich', 'matplotlib', 'lightning') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
