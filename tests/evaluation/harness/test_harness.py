"""The bridge to lm-evaluation-harness, offline: own tasks on the real model, checked with stock transformers."""

import json
import random
import sys
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_long.errors import UserError
from lit_long.evaluation.harness.compare import Score, group_scores, markdown, task_difference, task_score
from lit_long.evaluation.harness.run import _task_manager, harness_tasks, run_lm_eval
from lit_long.evaluation.harness.score import HarnessResult, HarnessScore
from lit_long.evaluation.harness.suite import PAPER_SUITE, HarnessTask, paper_group, paper_task

ROWS = [
    {"question": "The capital of France is", "choices": ["Paris", "Oslo"], "answer": 0},
    {"question": "Grass is usually", "choices": ["purple", "green"], "answer": 1},
    {"question": "The opposite of hot is", "choices": ["cold", "blue"], "answer": 0},
    {"question": "Two plus two is", "choices": ["nine hundred", "four"], "answer": 0},
]


@pytest.fixture(scope="module")
def loaded(smollm2):
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "fewshot_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}],
    }
    missing = task | {"task": "tiny_missing", "dataset_kwargs": {"data_files": {"test": "nowhere.jsonl"}}}
    second = task | {"task": "tiny_second", "doc_to_text": "Well: {{question}}"}
    inner = {"group": "tiny_part", "task": ["tiny_second"], "aggregate_metric_list": [{"metric": "acc"}]}
    group = {"group": "tiny_group", "task": ["tiny_choice", "tiny_part"]}
    for content in (inner, group):
        (folder / f"{content['group']}.yaml").write_text(yaml.safe_dump(content))
    for content in (task, missing, second):
        (folder / f"{content['task']}.yaml").write_text(yaml.safe_dump(content))
    return str(folder)


def test_in_memory_model_scores_as_stock_log_likelihoods(loaded, task_folder, tmp_path):
    model, tokenizer = loaded
    random.seed(7)
    torch.manual_seed(7)
    expected_next = (random.Random(7).random(), torch.rand(1, generator=torch.Generator().manual_seed(7)).item())
    notes = []
    tasks = [*harness_tasks(["tiny_choice:0", "tiny_missing", "no_such"]), HarnessTask(name="tiny_group", shots=0)]

    def run():
        return run_lm_eval(
            model, tokenizer, tasks, folder=tmp_path, model_key="m", include_path=task_folder, note=notes.append
        )

    result = run()
    assert (random.random(), torch.rand(1).item()) == expected_next  # a training around it draws what it would have
    expected = {}
    for number, row in enumerate(ROWS):
        scores = []
        for choice in row["choices"]:
            front = tokenizer(row["question"])["input_ids"]
            ids = front + tokenizer(" " + choice)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            picked = logits.gather(1, torch.tensor(ids[1:])[:, None])[len(front) - 1 :]
            scores.append(picked.sum().item())
        expected[f"tiny_choice/{number}"] = 100.0 * (scores.index(max(scores)) == row["answer"])
    score = result.scores["tiny_choice"]
    assert score.rows == expected
    assert score.value == pytest.approx(sum(expected.values()) / 4)
    assert (score.metric, score.cut) == ("acc,none", 0)
    group = result.scores["tiny_group"]  # every row of every task in it weighs the same
    assert {id: value for id, value in group.rows.items() if id.startswith("tiny_choice/")} == expected
    assert len(group.rows) == 8
    assert group.value == pytest.approx(sum(group.rows.values()) / 8)
    assert group.parts == {"tiny_part": pytest.approx(2 * group.value - score.value)}
    # what could not be run is said, and does not lose what could
    assert set(result.failed) == {"tiny_missing", "no_such"}
    assert "nowhere.jsonl" in result.failed["tiny_missing"]
    assert "has no task 'no_such'" in result.failed["no_such"]

    notes.clear()
    again = run()
    assert again.scores["tiny_choice"] == score
    assert any("tiny_choice: nothing changed" in note for note in notes)
    page = "\n".join(markdown({"base": result, "same": again}))
    assert "base, no_such: not run (" in page
    assert "+0.0 ± 0.0" in page


def test_a_prompt_the_harness_cuts_is_counted(loaded, task_folder):
    result = run_lm_eval(*loaded, [HarnessTask(name="tiny_choice", shots=0)], max_length=4, include_path=task_folder)
    assert result.scores["tiny_choice"].cut > 0


def test_errors(loaded, task_folder, monkeypatch):
    with pytest.raises(UserError, match=r"humaneval, mbpp run programs that the model wrote.*--allow-code"):
        run_lm_eval(*loaded, ["paper"])
    with pytest.raises(UserError, match=r"No task could be run \(no_such: .*Data sets come from the Hub"):
        run_lm_eval(*loaded, ["no_such"], include_path=task_folder)
    with pytest.raises(UserError, match="beyond this model's window of 8,192"):
        run_lm_eval(*loaded, ["tiny_choice"], max_length=9000, include_path=task_folder)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UserError, match=r"pip install 'lit-long\[eval\]'"):
        run_lm_eval(*loaded, ["piqa"])


def test_paper_suite_is_known_to_the_harness_with_its_shots(task_folder):
    known = set(_task_manager(task_folder).all_tasks)
    assert {task.name for task in PAPER_SUITE} <= known
    shots = {task.label: task.shots for task in PAPER_SUITE}
    assert len(shots) == 15
    assert (shots["MMLU"], shots["MBPP"], shots["GSM8K"], shots["MATH"], shots["CommonsenseQA"]) == (5, 3, 8, 4, 7)
    assert harness_tasks(["gsm8k", "paper"])[0].shots == 8
    assert harness_tasks(["nq_open:1"])[0] == replace(harness_tasks(["nq_open"])[0], shots=1)
    with pytest.raises(UserError, match="number of shots, such as nq_open:5"):
        harness_tasks(["nq_open:few"])
    # the paper's group means are the means of its own tasks, which guards against a slip of transcription
    for group in ("Coding", "Math", "OpenQA"):
        labels = [task.label for task in PAPER_SUITE if task.group == group]
        for size in ("7B", "13B", "34B", "70B"):
            mean = sum(paper_task(label)[f"Llama 2 Long {size}"] for label in labels) / 2
            assert paper_group(group)[f"Llama 2 Long {size}"] == pytest.approx(mean, abs=0.06), (group, size)


def _score(name, values, metric="acc,none"):
    rows = {f"{name}/{i}": float(v) for i, v in enumerate(values)}
    task = next((t for t in PAPER_SUITE if t.name == name), HarnessTask(name=name))
    value = sum(values) / len(values)
    return HarnessScore(task=task, metric=metric, value=value, rows=rows, parts={}, shots=0, cut=0, versions={})


def test_regression_is_paired_and_groups_are_means_of_tasks():
    base, other = _score("nq_open", [0, 100] * 50), _score("nq_open", [0, 100] * 49 + [100, 100])
    gap = task_difference(base, other)
    assert gap.value == pytest.approx(1)
    assert gap.half_width < 0.25 * task_score(base).half_width
    unpaired = task_difference(base, _score("nq_open", [50] * 10))
    assert (unpaired.value, unpaired.half_width) == (0, None)
    assert task_difference(base, _score("nq_open", [1], "f1,none")) is None
    scores = {"nq_open": Score(20, 3), "triviaqa": Score(60, 4), "humaneval": Score(9, 1)}
    assert group_scores(scores) == {"OpenQA": Score(40, 2.5)}  # no Coding: its other task is not there
    page = "\n".join(markdown({"base": HarnessResult({"nq_open": base}), "long": HarnessResult({"nq_open": other})}))
    assert "| NaturalQuestions | acc,none | 0 | 50.0" in page
    assert "7B 27.5" in page
