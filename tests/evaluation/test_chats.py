"""Loss of right answers: against stock transformers, without the document, resumed, from the command line."""

import json

import numpy as np
import pytest
import torch
import yaml

from lit_long.data import InstructData, InstructSource
from lit_long.entry import main
from lit_long.evaluation.chats import answer_loss, examples_of, summarise_chats, without_middle


@pytest.fixture(scope="module")
def pairs(books, tmp_path_factory):
    """Questions on real stretches of four books, several a book, with the column that synthesized data has."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    texts = [json.loads(line) for line in books.read_text(encoding="utf-8").splitlines()]
    with path.open("w", encoding="utf-8") as out:
        for number in range(12):
            book = texts[number % 4]
            begin = 500 * number if len(book["text"]) > 10_000 else 0
            stretch = book["text"][begin : begin + 1500]
            words = " ".join(stretch.split()[60:66])
            messages = [
                {"role": "user", "content": f"{stretch}\n\nQuestion: what follows its sixtieth word?"},
                {"role": "assistant", "content": words},
            ]
            out.write(json.dumps({"messages": messages, "document_id": book["id"]}) + "\n")
    return path


def data_of(pairs, smollm2, cache, **source):
    return InstructData(
        sources={"long": InstructSource(path=str(pairs), long=True, **source)},
        sequence_length=1024, tokens_per_step=2048, tokenizer=smollm2, held_out_share=0.5, cache=str(cache),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(smollm2):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()


def test_documents_are_never_on_both_sides(pairs, smollm2, tmp_path):
    data = data_of(pairs, smollm2, tmp_path)
    sides = [{e.group for e in examples_of(data, None, split)} for split in ("train", "held_out")]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 4


def test_a_group_column_that_is_not_there(pairs, smollm2, tmp_path):
    from lit_long.errors import UserError

    with pytest.raises(UserError, match=r"no value in the column 'book'.*\['document_id', 'messages'\]"):
        examples_of(data_of(pairs, smollm2, tmp_path, group="book"), None, "train")


def test_loss_is_that_of_stock_transformers(pairs, smollm2, model, tmp_path):
    from transformers import AutoTokenizer

    example = examples_of(data_of(pairs, smollm2, tmp_path), None, "held_out")[0]
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    messages = rows[int(example.place.rpartition(":")[2]) - 1]["messages"]
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    ids = tokenizer.apply_chat_template(messages, return_tensors="pt")["input_ids"]
    prompt = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_tensors="pt")["input_ids"]
    stop = ids.shape[1] - 1 if tokenizer.decode(ids[0, -1]).isspace() else ids.shape[1]  # the line behind <|im_end|>
    labels = ids.clone()
    labels[:, : prompt.shape[1]] = -100
    labels[:, stop:] = -100
    with torch.no_grad():
        expected = model(input_ids=ids, labels=labels).loss.item()
    loss, count, greedy = answer_loss(model, example)
    assert count == stop - prompt.shape[1]
    assert loss / count == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        best = model(input_ids=ids).logits[0, prompt.shape[1] - 1 : stop - 1].argmax(-1)
    assert greedy == bool((best == ids[0, prompt.shape[1] : stop]).all())


def test_without_its_middle_instruction_question_and_answer_stay(pairs, smollm2, tmp_path):
    from transformers import AutoTokenizer

    example = examples_of(data_of(pairs, smollm2, tmp_path), None, "held_out")[0]
    short = without_middle(example, 64)
    assert len(short.ids) == 64 + example.assistant.sum() + _behind(example)
    assert np.array_equal(short.ids[short.assistant], example.ids[example.assistant])
    text = AutoTokenizer.from_pretrained(smollm2).decode(short.ids)
    assert text.startswith("<|im_start|>")
    assert "Question: what follows its sixtieth word?" in text
    assert without_middle(example, 2048) is None


def _behind(example):
    """Tokens behind the last answer."""
    return len(example.ids) - 1 - int(np.flatnonzero(example.assistant)[-1])


def test_pairs_models_and_groups():
    def row(number, nll, short, group):
        return {"id": str(number), "source": "s", "group": group, "nll": nll, "short_nll": short, "greedy": nll < 1}

    before = [row(i, 3.0 + i, 3.5 + i, f"book {i // 2}") for i in range(12)]
    after = [row(i, 2.0 + i, 3.0 + i, f"book {i // 2}") for i in range(12)]
    first, second = summarise_chats({"before": before, "after": after})
    assert (first.unit, first.groups, first.change, first.gain_change) == ("document", 6, None, None)
    assert second.change.mean == pytest.approx(-1)
    assert second.change.half_width == pytest.approx(0, abs=1e-12)  # the same on every example
    assert first.gain.mean == pytest.approx(0.5)
    assert second.gain_change.mean == pytest.approx(0.5)
    assert summarise_chats({"one": before[:6]})[0].unit == "example"


def test_command_reports_and_goes_on(pairs, smollm2, tmp_path, capsys, monkeypatch):
    recipe = {
        "model": {"model": smollm2},
        "data": {
            "class_path": "lit_long.data.InstructData",
            "init_args": {
                "sources": {"long": {"path": str(pairs), "long": True}},
                "sequence_length": 1024, "tokens_per_step": 2048, "held_out_share": 0.5,
                "cache": str(tmp_path / "cache"),
            },
        },
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    words = ["answers", f"one={smollm2}", "--config", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "out")]
    words += ["--limit", "2", "--keep", "64"]
    assert main(words) == 0
    page = capsys.readouterr().out
    assert "| one |" in page
    assert (tmp_path / "out" / "answers.png").stat().st_size > 5000
    rows = (tmp_path / "out" / "raw" / "one.jsonl").read_text().splitlines()
    assert len(rows) == 3
    assert all(0 < json.loads(row)["nll"] < 10.8 for row in rows[1:])

    def no_forward(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr("lit_long.evaluation.chats.measure.answer_loss", no_forward)
    assert main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["scores"][0]["examples"] == 2
    assert main(["answers", smollm2, "--config", str(tmp_path / "recipe.yaml"), "--keep", "-1"]) == 2
