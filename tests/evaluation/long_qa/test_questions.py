"""Benchmarks' rows become prompts by each benchmark's own rule, to the token."""

from zipfile import ZipFile

import pytest
from transformers import AutoTokenizer

from lit_long.errors import UserError
from lit_long.evaluation.long_qa.catalogue import TASKS, find_tasks
from lit_long.evaluation.long_qa.prompts import Layout, chat_frame, fit_prompt
from lit_long.evaluation.long_qa.zero_scrolls import write_submission


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir):
    return AutoTokenizer.from_pretrained(tokenizer_dir)


def test_paper_prompt_shots_and_references(data):
    questions = TASKS["scrolls/qasper"].read("validation", data)
    assert [q.id for q in questions] == ["q1", "q2", "q3"]
    assert questions[0].references == ("a fox", "the red fox")
    assert questions[1].document == questions[2].document != questions[0].document
    text = questions[0].layout.text
    assert text.endswith("lived under the old oak. Q: Who lived there?, A:")
    # two shots, the shortest documents of the training rows first, each with its answer
    assert text.startswith("Snow fell. Snow fell.")
    assert text.count(", A: example") == 2
    assert text.index("A: example 4") < text.index("A: example 3")
    assert TASKS["scrolls/narrative_qa"].read("validation", data)[0].layout.text.startswith("A red fox")


def test_quality_options_belong_to_the_question(data):
    text = TASKS["scrolls/quality"].read("validation", data)[0].layout.text
    assert text.endswith("old oak. Q: Who lived there? (A) a fox (B) a goose (C) an owl (D) a mill, A:")


def test_left_truncation_keeps_the_last_tokens(data, tokenizer):
    layout = TASKS["scrolls/qmsum"].read("validation", data)[0].layout
    whole = tokenizer(layout.text, add_special_tokens=False)["input_ids"]
    prompt = fit_prompt(layout, tokenizer, 50)
    assert prompt.ids == whole[-50:]
    assert prompt.cut == len(whole) - 50
    assert fit_prompt(layout, tokenizer, len(whole)).ids == whole


def test_zero_scrolls_keeps_front_and_query(data, tokenizer):
    layout = TASKS["zero_scrolls/space_digest"].read("validation", data)[0].layout
    whole = fit_prompt(layout, tokenizer, 10_000)
    assert whole.cut == 0
    assert "omitted" not in tokenizer.decode(whole.ids)
    prompt = fit_prompt(layout, tokenizer, 120)
    text = tokenizer.decode(prompt.ids)
    assert len(prompt.ids) == 120
    assert prompt.cut > 0
    assert text.startswith("You are given a report.")
    assert text.endswith("... [The rest of the report is omitted]\n\nQuestion:\nWhich?\n\nAnswer:\n")


def test_a_cap_without_room_for_the_document_is_refused(data, tokenizer):
    layout = TASKS["zero_scrolls/space_digest"].read("validation", data)[0].layout
    with pytest.raises(UserError, match="no room for the document"):
        fit_prompt(layout, tokenizer, 10)


def test_chat_template_frames_the_prompt_and_counts(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    frame = chat_frame(tokenizer)
    layout = Layout(before="Read this. ", body="The fox slept. " * 50, after=" Who slept?", keep="start")
    message = [{"role": "user", "content": layout.text}]
    rendered = tokenizer.apply_chat_template(message, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert fit_prompt(layout, tokenizer, 10_000, chat=frame).ids == rendered
    cut = fit_prompt(layout, tokenizer, 80, chat=frame)
    assert len(cut.ids) == 80
    assert tokenizer.decode(cut.ids).endswith("Who slept?<|im_end|>\n<|im_start|>assistant\n")


def test_bos_survives_the_cut(tokenizer_dir):
    from tokenizers.processors import TemplateProcessing

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    bos = tokenizer.convert_ids_to_tokens(0)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    layout = Layout(body="One two three four five six seven eight nine ten.", keep="end")
    whole = tokenizer(layout.text)["input_ids"]
    assert whole[0] == 0
    assert fit_prompt(layout, tokenizer, 100).ids == whole
    assert fit_prompt(layout, tokenizer, 5).ids == [0, *whole[-4:]]


def test_l_eval_asks_each_instruction(data):
    first, second = TASKS["l_eval/coursera"].read("test", data)
    assert (first.references, second.references) == (("A",), ("BC",))
    assert first.document == second.document
    assert second.layout.after == "\n\nWhere?\nAnswer:"


def test_missing_data_says_what_to_do(data, tmp_path):
    with pytest.raises(UserError, match=r"No validation.jsonl or validation.parquet in .*musique"):
        TASKS["zero_scrolls/musique"].read("validation", data)
    with pytest.raises(UserError, match="test split only"):
        TASKS["l_eval/coursera"].read("validation", data)
    folder = tmp_path / "scrolls" / "narrative_qa"
    folder.mkdir(parents=True)
    (folder / "validation.jsonl").write_text('{"id": "1", "text": "no question"}\n')
    with pytest.raises(UserError, match="no column 'input', only"):
        TASKS["scrolls/narrative_qa"].read("validation", tmp_path)


def test_archives_of_the_hub_and_the_same_by_hand(data, tmp_path, monkeypatch):
    """The Hub's SCROLLS is a zip archive for each task; so may the local folder be."""
    import huggingface_hub

    archive = tmp_path / "scrolls" / "qasper.zip"
    archive.parent.mkdir()
    with ZipFile(archive, "w") as file:
        for split in ("train", "validation"):
            file.write(data / "scrolls" / "qasper" / f"{split}.jsonl", f"qasper/{split}.jsonl")
    asked = []

    def download(repository, name, *, repo_type):
        asked.append((repository, name, repo_type))
        return str(archive)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    task = TASKS["scrolls/qasper"]
    expected = task.read("validation", data)
    assert task.read("validation", None) == expected
    assert set(asked) == {("tau/scrolls", "qasper.zip", "dataset")}
    assert task.read("validation", tmp_path) == expected


def test_hub_without_network_is_one_message(monkeypatch):
    import huggingface_hub

    def fail(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=r"scrolls/qasper.*ConnectionError: no route to host.*give --data FOLDER"):
        TASKS["scrolls/qasper"].read("validation", None)


def test_names():
    assert len(find_tasks(["scrolls", "scrolls/qasper"])) == 4
    assert len(find_tasks(["zero_scrolls", "l_eval"])) == 16
    with pytest.raises(UserError, match="No long question task 'qasper'"):
        find_tasks(["qasper"])


def test_submission_file(tmp_path):
    answers = {"qasper": {"1": 'two "words",\nnext line'}, "musique": {"7": ""}}
    missing = write_submission(answers, tmp_path / "s.csv")
    import pandas

    table = pandas.read_csv(tmp_path / "s.csv", dtype=object, keep_default_na=False)
    assert table.values.tolist() == [["qasper", "1", 'two "words",\nnext line'], ["musique", "7", ""]]
    assert list(table.columns) == ["Task", "ID", "Prediction"]
    assert len(missing) == 8
    assert "quality" in missing
