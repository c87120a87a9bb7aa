"""``lit-long prepare`` at the command line: plain flags, YAML, what is printed where, and the report."""

import io
import json
import re
from pathlib import Path

import jsonargparse
import pytest
import yaml

from lit_long.cli import prepare_progress
from lit_long.data import TokenCorpus
from lit_long.data.prepare import PrepareConfig, Progress
from lit_long.entry import main


def run(capsys, *args):
    code = main(["prepare", *map(str, args)])
    out, errors = capsys.readouterr()
    return code, out, errors


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [{"key": "a", "body": "one two"}, {"key": "b", "body": "three"}, {"key": "c", "body": ""}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_plain_flags_for_one_source(capsys, texts, tokenizer_dir, tmp_path):
    flags = ["--source", texts, "--text-field", "body", "--tokenizer", tokenizer_dir, "--output", tmp_path / "out"]
    code, _, errors = run(capsys, *flags)
    assert code == 2
    assert f"{texts}:3: an empty document; remove it" in errors
    more = ["--id-field", "key", "--max-bad-rows", "1", "--held-out", "b", "--name", "mine", "--license", "CC0-1.0"]
    code, out, errors = run(capsys, *flags, *more, "--processes", "1", "--kind", "files")
    assert (code, errors) == (0, "")
    assert out.startswith(f"wrote: {tmp_path / 'out'}\n  train: 1 documents, ")
    assert "left out: 1 bad rows (empty 1); see bad_rows.jsonl there" in out
    assert TokenCorpus(tmp_path / "out", "held_out").document_id(0) == "b"
    assert TokenCorpus(tmp_path / "out").info["license"] == "CC0-1.0"
    code, out, _ = run(capsys, *flags, *more, "--kind", "files", "--json")
    assert json.loads(out)["reused"] is True


def test_documents_numbered_by_their_place(capsys, texts, tokenizer_dir, tmp_path):
    flags = ["--source", texts, "--text-field", "body", "--tokenizer", tokenizer_dir, "--output", tmp_path / "out"]
    assert run(capsys, *flags, "--id-field", "none", "--max-bad-rows", "1")[0] == 0
    assert TokenCorpus(tmp_path / "out").document_id(1) == "texts.jsonl:2"


def test_flags_win_over_the_file(capsys, texts, tokenizer_dir, tmp_path):
    config = {"tokenizer": "nothing", "sources": [{"path": str(texts), "text_field": "body"}], "max_bad_rows": 1}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(config | {"output": str(tmp_path / "no")}))
    args = ["--config", tmp_path / "d.yaml", "--tokenizer", tokenizer_dir, "--output", tmp_path / "out"]
    assert run(capsys, *args)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.yaml", "out", "texts.jsonl"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": [{"path": "x", "hub": "y"}]}, "a source needs exactly one of path and hub; found both"),
        ({"sources": [{"path": "x", "kind": "zip"}]}, "kind"),
        ({"processes": 0}, "processes is 0; it must be at least 1"),
        ({"max_bad_row": 1}, "max_bad_row"),
        ({"sources": []}, "missing sources"),
    ],
)
def test_mistakes_in_the_file(capsys, tmp_path, tokenizer_dir, change, message):
    config = {"tokenizer": tokenizer_dir, "sources": [{"path": "x"}], "output": str(tmp_path / "out")} | change
    (tmp_path / "d.yaml").write_text(yaml.safe_dump(config))
    code, out, errors = run(capsys, "--config", tmp_path / "d.yaml")
    assert (code, out) == (2, "")
    assert message in errors
    assert "Traceback" not in errors


def test_flags_of_a_source_without_one(capsys, tmp_path):
    (tmp_path / "d.yaml").write_text("output: out\n")
    code, _, errors = run(capsys, "--config", tmp_path / "d.yaml", "--kind", "repository", "--id-field", "none")
    assert code == 2
    assert "--id-field, --kind: only with --source; in a --config file it is a key of each source" in errors


def test_report(capsys, corpus_dir, tmp_path):
    code, out, errors = run(capsys, "--report", corpus_dir, "--output", tmp_path)
    assert (code, errors) == (0, "")
    assert "| tokens of a document | documents |" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "lengths.json",
        "lengths.md",
        "lengths_held_out.png",
        "lengths_train.png",
    ]
    code, out, _ = run(capsys, "--report", corpus_dir, "--output", tmp_path, "--json")
    assert json.loads(out) == json.loads((tmp_path / "lengths.json").read_text())
    code, _, errors = run(capsys, "--report", tmp_path)
    assert code == 2
    assert "no token corpus" in errors


def test_progress_lines_where_no_terminal_is(monkeypatch):
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(prepare_progress.sys, "stderr", out)
    monkeypatch.setattr(prepare_progress.time, "monotonic", lambda: now[0])
    with prepare_progress.shown() as show:
        show(Progress(20_000_000, 100_000_000, 0, 0, 0, 2, 2))
        for seconds in (3.0, 10.0, 15.0, 21.0):
            now[0] = seconds
            done = 20_000_000 + int(seconds * 2e6)
            show(Progress(done, 100_000_000, 7, int(seconds * 500_000), 1, 3, 2))
    lines = out.getvalue().splitlines()
    assert lines[0] == "going on: 2 items were done before"
    assert len(lines) == 3  # at 10 and 21 seconds
    assert lines[1] == (
        "tokenising: 40 of 100 MB, 7 documents, 5,000,000 tokens (500,000/s), 1 bad rows, 2 items were done before, "
        "about 30 s left"
    )
    assert "10,500,000 tokens (500,000/s)" in lines[2]


def test_the_configuration_of_the_docs_can_be_given():
    page = (Path(__file__).parents[2] / "docs" / "data" / "prepare.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PrepareConfig, "prepare")
    given = parser.instantiate_classes(parser.parse_object({"prepare": yaml.safe_load(block)})).prepare
    assert [source.kind for source in given.sources] == ["auto", "auto", "repositories", "auto"]
    assert given.sources[1].id_field is None
    assert given.max_bad_rows == 0
