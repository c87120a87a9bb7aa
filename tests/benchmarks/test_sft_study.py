"""The study of instruction tuning: its questions are settled by the text, and its report says what the numbers say."""

import json
import random
import sys
from pathlib import Path

import pytest

PAPER = Path(__file__).parents[2] / "benchmarks" / "paper"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    """The studies' scripts import each other by name."""
    monkeypatch.syspath_prepend(str(PAPER))
    yield
    for name in ("arms", "texts", "rules", "sft_data", "sft", "report_sft"):
        sys.modules.pop(name, None)


def test_answers_stand_in_the_text_behind_their_question(books):
    import rules

    text = json.loads(books.read_text().splitlines()[0])["text"][:4000]
    flat = " ".join(text.split())
    made = [rules.pair(text, random.Random(seed), short=seed % 3 > 0) for seed in range(60)]
    assert {rules.rule_of(question) for question, _ in filter(None, made)} == {"follows", "gap", "next"}
    for question, answer in filter(None, made):
        quoted = question.partition('"')[2].rpartition('"')[0]
        joined = quoted.replace("___", answer) if "___" in quoted else f"{quoted} {answer}"
        assert joined in flat
    assert rules.pair("Too short.", random.Random(0), short=True) is None


def test_chats_go_through_the_pipeline_and_hold_their_answer(books, tmp_path):
    import sft_data

    (tmp_path / "texts").mkdir()
    text = " ".join(json.loads(line)["text"] for line in books.read_text().splitlines())
    for source in ("books", "manuals", "code"):
        with (tmp_path / "texts" / f"{source}.jsonl").open("w") as file:
            for number in range(30):
                row = {"id": f"{source}/{number}", "text": text[500 * number : 500 * number + 12_000]}
                file.write(json.dumps(row) + "\n")
    few = {"books": 2, "manuals": 2, "code": 1}
    sets = {"held_out_long": sft_data.Chats("held_out", sft_data.LONG, few, dict.fromkeys(few, 3))}
    counts = sft_data.make_chats(tmp_path, sets)
    files = sft_data.by_rule(tmp_path, "held_out_long")
    made = [json.loads(line) for file in files.values() for line in file.read_text().splitlines()]
    assert len(made) == sum(counts["held_out_long"].values()) > 5
    for row in made:
        user, assistant = row["messages"]
        assert assistant["content"] == row["answer"]
        assert row["answer"] in " ".join(user["content"].split())
        assert row["total_tokens"] <= sft_data.LONG
        assert sft_data.place(row["document_id"]) < sft_data.HELD_OUT
    assert sft_data.make_chats(tmp_path, sets) == counts  # nothing is asked twice


def _rows(loss, gain):
    return [
        {"id": f"{s}{n}", "source": s, "place": "p", "group": f"d{n % 6}", "tokens": 9, "answer_tokens": 2,
         "nll": loss + n / 50, "greedy": False, "short_tokens": 4, "short_nll": loss + n / 50 + gain + n % 3 / 100}
        for s in ("follows", "gap", "short") for n in range(12)
    ]  # fmt: skip


def test_the_report_says_what_the_numbers_say():
    import report_sft
    import sft

    rows = {sft.BEFORE: _rows(5.0, 0.0)}
    for seed in (1, 2):
        for name, (loss, gain) in zip(sft.ARMS, [(3.0, 0.1), (3.2, 0.1), (2.6, 0.5), (2.5, 0.6)], strict=True):
            rows[f"{name} {seed}"] = _rows(loss + seed / 10, gain)
    arms = sft.tabulate(rows, 2)
    assert arms["short"]["long"]["examples"] == 24
    assert arms["short"]["long"]["change"] is None
    assert arms["+ self-instruct"]["long"]["change"]["mean"] == pytest.approx(-0.4)
    assert arms["+ self-instruct"]["long"]["gain_change"]["mean"] == pytest.approx(0.4)
    assert arms["short"]["long"]["seed_sd"] == pytest.approx(0.1 / 2**0.5)
    result = {
        "command": "c", "machine": "m", "versions": {"torch": "t"}, "length": 2048, "kept_input_tokens": 256,
        "seeds": 2, "steps": 9, "chats": {"short": {"gap": 4}, "long": {"gap": 3}},
        "training_seconds": {"short 1": 2.0}, "arms": json.loads(json.dumps(arms)),
    }  # fmt: skip
    text = "\n".join(report_sft.sft(result))
    assert "| + self-instruct | 2.860 | 2.860 | 2.860 | -0.400 [-0.400, -0.400] | yes | 2.860 |" in text
    assert "| + pretraining text | 3.460 | 3.460 | 3.460 | +0.200 [+0.200, +0.200] | no, worse | 3.460 |" in text
    assert "Shown to be better than short chats alone: + self-instruct, + self-instruct, input loss." in text
    assert "loss on the input is best, and so it is here" in text
