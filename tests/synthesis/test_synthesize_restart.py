"""A run that is killed at any moment, and the same command again."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from scripted_server import good, rows

from lit_long.entry import main
from lit_long.errors import UserError
from lit_long.synthesis import synthesize


@pytest.fixture
def config_file(tmp_path, many, tokenizer_dir, template, server):
    values = {
        "tokenizer": tokenizer_dir,
        "sources": [{"path": str(many)}],
        "output": str(tmp_path / "out"),
        "target_length": 1500,
        "min_document_tokens": 64,
        "chunk_tokens": 200,
        "chat_template": template,
        "questions": {"per_document": 2},
        "generator": {"class_path": "Server", "base_url": server.url, "model": "scripted", "concurrency": 3},
    }
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def lines(journal):
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_kill_and_go_on(config_file, server, tmp_path, capsys):
    server.answer = lambda prompt, number: time.sleep(0.03) or good(prompt)
    command = [sys.executable, "-m", "lit_long.entry", "synthesize", "--config", str(config_file), "--json"]
    journal = tmp_path / "out" / ".journal" / "00000-of-00001.jsonl"
    kept = b""
    for upto in (5, 13):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while lines(journal) < upto and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
        assert upto <= lines(journal) < 24
        whole = journal.read_bytes()[: journal.read_bytes().rfind(b"\n") + 1]
        assert whole.startswith(kept)
        kept = whole
        with journal.open("ab") as file:
            file.write(b'{"key": "half a li')  # as a kill in the middle of a write leaves it
    before, asked = lines(journal), len(server.requests)
    # what there is can be had without going on
    assert main(["synthesize", "--config", str(config_file), "--report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"]["accepted"] == before == len(rows(tmp_path / "out"))
    assert len(server.requests) == asked
    assert main(["synthesize", "--config", str(config_file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert journal.read_bytes().startswith(kept)
    assert report["outcomes"]["accepted"] == 24
    assert report["this_run"]["done_before"] == before
    assert len(server.requests) - asked == 2 * (24 - before)
    keys = [json.loads(line)["key"] for line in journal.open()]
    assert sorted(keys) == sorted({f"doc-{i}#{k}" for i in range(12) for k in range(2)})
    made = rows(tmp_path / "out")
    assert [row["id"] for row in made] == [f"doc-{i}#{k}" for i in range(12) for k in range(2)]
    assert main(["synthesize", "--config", str(config_file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcomes"] == report["outcomes"]
    assert len(server.requests) - asked == 2 * (24 - before)
    assert rows(tmp_path / "out") == made


def test_other_settings_are_refused(make, many, server):
    synthesize(make(max_documents=2))
    with pytest.raises(UserError, match=r"seed was 0, is 1; target_length was 1500, is 1600"):
        synthesize(make(max_documents=2, seed=1, target_length=1600))
    with pytest.raises(UserError, match=r'generator.model was "scripted", is "other"'):
        synthesize(make(max_documents=2, generator_model="other"))
    asked = len(server.requests)
    synthesize(make(max_documents=2, generator_concurrency=1, generator_timeout=5.0, format="parquet"))  # only speed
    assert len(server.requests) == asked
    changed = Path(make().output).parent / "many.jsonl"
    changed.write_text(many.read_text().replace("doc-11", "doc-twelve"))
    with pytest.raises(UserError, match=r"many.jsonl changed"):
        synthesize(make(max_documents=2, path=changed))


def test_a_full_disk_loses_the_question_at_hand(make, server, monkeypatch):
    config, whole = make(max_documents=4, generator_concurrency=1), os.fsync
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:  # one for opening, one a question
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        whole(descriptor)

    monkeypatch.setattr("lit_long.synthesis.journal.os.fsync", full)
    with pytest.raises(UserError, match="cannot be written \\(No space left on device\\)"):
        synthesize(config)
    monkeypatch.undo()
    assert synthesize(config)["outcomes"]["accepted"] == 4


def test_a_damaged_journal_is_named(make):
    config = make(max_documents=1)
    synthesize(config)
    journal = Path(config.output, ".journal", "00000-of-00001.jsonl")
    journal.write_bytes(b"not json\n" + journal.read_bytes())
    with pytest.raises(UserError, match=r"00000-of-00001.jsonl: damaged"):
        synthesize(config)
