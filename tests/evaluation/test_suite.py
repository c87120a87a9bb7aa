"""One report over several evaluations: run, resumed, with what could not be measured."""

import json
import shutil

import pytest

from lit_long.cli.suite import SUITES, TASKS
from lit_long.entry import main


@pytest.fixture(scope="module")
def model(tiny_model_dir, tmp_path_factory):
    """A tiny model with a window of 512."""
    folder = tmp_path_factory.mktemp("suite") / "model"
    shutil.copytree(tiny_model_dir, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 512}))
    return str(folder)


def test_quick_suite_in_one_page(corpus_dir, model, tmp_path, capsys, monkeypatch):
    words = [
        "evaluate",
        f"tuned={model}",
        "--base",
        model,
        "--corpus",
        str(corpus_dir),
        "--suite",
        "quick",
    ]
    words += ["--max-length", "256", "--output", str(tmp_path), "--windows", "2"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("3 of 3 tasks measured (loss, retrieval, first_sentence): ")
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["tasks"]) == SUITES["quick"]
    found = report["tasks"]["retrieval"]["content"]["models"]
    assert found["base"] == found["tuned"]  # the same model under two names
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") >= 3
    assert 'src="http' not in page
    assert "ROUGE-L" in page

    def no_forward(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("lit_long.evaluation.retrieval.grid._row", no_forward)
    assert main([*words, "--tasks", "retrieval", "first_sentence"]) == 0
    assert capsys.readouterr().out.startswith("2 of 2 tasks measured")


def test_what_cannot_be_had_is_in_the_report(corpus_dir, model, tmp_path, capsys):
    words = [
        "evaluate",
        model,
        "--corpus",
        str(corpus_dir),
        "--length",
        "256",
        "--output",
        str(tmp_path),
        "--windows",
        "2",
    ]
    empty = tmp_path / "no_data"
    empty.mkdir()
    assert main([*words, "--tasks", "loss", "long_qa", "--data", str(empty)]) == 0
    assert "1 of 2 tasks measured (loss); not measured: long_qa" in capsys.readouterr().out
    assert "Not measured: " in (tmp_path / "report.md").read_text()
    assert main([*words, "--tasks", "long_qa", "--data", str(empty)]) == 2
    assert "Nothing could be run. long_qa:" in capsys.readouterr().err
    assert main([*words, "--tasks", "loss", "smell"]) == 2
    assert "no task 'smell'" in capsys.readouterr().err


def test_suites_name_tasks_that_there_are():
    assert all(name in TASKS for names in SUITES.values() for name in names)
    assert set(SUITES["full"]) == set(TASKS)
