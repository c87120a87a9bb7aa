"""``lit-long benchmark`` from the command line to its files, offline, on tiny models."""

import json
import shutil

import pytest

from lit_long.entry import main


@pytest.fixture(scope="module")
def benchmark_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    document = "The miller kept seven grey geese by the pond. " * 12
    rows = [
        {
            "id": f"q{i}",
            "pid": f"q{i}_0",
            "input": f"How many geese {i}?\n\n{document * (1 + i % 3)}",
            "output": "seven",
        }
        for i in range(4)
    ]
    _write(root / "scrolls" / "narrative_qa" / "validation.jsonl", rows)
    zero = [
        {
            "id": row["id"],
            "pid": row["pid"],
            "input": f"Answer.\n\n{document}\n\nQuestion: which?",
            "output": None,
            "document_start_index": 9,
            "document_end_index": 9 + len(document),
            "query_start_index": 11 + len(document),
            "query_end_index": 28 + len(document),
            "truncation_seperator": "...\n\n",
        }
        for row in rows
    ]
    _write(root / "zero_scrolls" / "musique" / "test.jsonl", zero)
    return root


def _write(path, rows):
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def models(tiny_model_dir, tmp_path):
    """A base of 64 positions, and the same weights with 256."""
    for name, window in (("base", 64), ("long", 256)):
        shutil.copytree(tiny_model_dir, tmp_path / name)
        config = tmp_path / name / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": window}))
    return [str(tmp_path / "base"), str(tmp_path / "long")]


def test_two_models_two_caps(models, benchmark_data, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["benchmark", *models, "--tasks", "scrolls/narrative_qa", "zero_scrolls/musique", "--device", "cpu"]
    arguments += ["--max-length", "128", "200", "--data", str(benchmark_data), "--output", str(output)]
    # the base has 64 positions: refused at either cap, never wrapped; what the other can do is done
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    content = json.loads(out)
    base, long = content["models"]
    assert "beyond this model's window of 64" in base["not_run"]["scrolls/narrative_qa @ 128"]
    assert "zero_scrolls/musique" in err  # no validation rows there
    assert [(task["task"], task["cap"], task["questions"]) for task in long["long"]] == [
        ("scrolls/narrative_qa", 128, 4),
        ("scrolls/narrative_qa", 200, 4),
    ]
    assert long["long"][0]["gold_nll"]["value"] == pytest.approx(8.3, abs=0.5)  # ln 4096: random weights
    page = (output / "benchmarks.md").read_text()
    assert "| scrolls/narrative_qa | f1 | 128 | 4 | not run |  |" in page
    assert "## Not run" in page
    assert (output / "long_tasks.png").stat().st_size > 1000
    raw = output / "raw" / "long" / "scrolls.narrative_qa.validation.128.jsonl"
    assert len(raw.read_text().splitlines()) == 5

    assert main(arguments) == 0  # all read back
    assert "4 of 4 answers read from" in capsys.readouterr().err


def test_submission_of_the_test_split(models, benchmark_data, tmp_path, capsys):
    output = tmp_path / "out"
    arguments = ["benchmark", models[1], "--tasks", "zero_scrolls/musique", "--split", "test", "--max-length", "200"]
    assert main([*arguments, "--data", str(benchmark_data), "--output", str(output), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    lines = (output / "zero_scrolls-long-200.csv").read_text().splitlines()
    assert lines[0] == "Task,ID,Prediction"
    assert lines[1].startswith("musique,q0,")
    assert "the leaderboard wants gov_report" in err
    assert "| zero_scrolls/musique | f1 | 200 | 4 |  |  |" in out  # hidden labels: no score, and none made up


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "qasper"], "No task 'qasper'. There are scrolls, zero_scrolls"),
        (["--tasks", "scrolls"], "Long tasks need --max-length"),
        (["--tasks", "paper"], "humaneval, mbpp run programs that the model wrote"),
        (["--tasks", "red_team", "--max-length", "128"], "red_team needs --attacks FILE"),
        (["--tasks", "bold", "--data", "nowhere"], "--data nowhere: no such folder"),
        (["--tasks", "bold", "--limit", "0"], "--limit 0: must be at least 1"),
    ],
)
def test_mistakes_are_one_message_before_any_model_is_loaded(arguments, message, capsys):
    assert main(["benchmark", "no/model", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_nothing_that_runs_is_an_error_with_its_reason(models, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    arguments = ["--tasks", "bold", "--data", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]
    assert main(["benchmark", models[1], *arguments, "--device", "cpu"]) == 2
    assert "Nothing could be run. bold: No train.jsonl or train.parquet" in capsys.readouterr().err


def test_a_model_without_a_tokenizer_says_so(models, benchmark_data, tmp_path, capsys):
    for file in (tmp_path / "long").glob("tokenizer*"):
        file.unlink()
    arguments = ["--tasks", "scrolls/narrative_qa", "--max-length", "128", "--data", str(benchmark_data)]
    arguments += ["--output", str(tmp_path / "out"), "--device", "cpu"]
    assert main(["benchmark", models[1], *arguments]) == 2
    assert "with --tokenizer" in capsys.readouterr().err
    assert main(["benchmark", models[1], *arguments, "--tokenizer", models[0]]) == 0
