"""Whole runs against a scripted server: what is made, and what happens when the server misbehaves."""

import json
import re
from pathlib import Path

import pytest
from scripted_server import completion, good, rows

from lit_long.errors import UserError
from lit_long.synthesis import Checks, Questions, Shard, synthesize


def test_pairs_with_their_provenance(make, many, server):
    config = make(seed=3)
    report = synthesize(config)
    texts = {row["id"]: row["text"] for row in map(json.loads, many.read_text().splitlines())}
    made = rows(config.output)
    assert report["outcomes"] == {"accepted": 12, "rejected": 0, "failed": 0, "skipped": 0}
    assert [row["document_id"] for row in made] == list(texts)
    assert {row["kind"] for row in made} == {"normal", "short"}
    asked = [body for body in server.requests if "<verdict>" not in body["messages"][0]["content"]]
    assert {body["seed"] for body in asked} == {row["sampling_seed"] for row in made}
    assert server.most_open <= 3
    for row in made:
        text = texts[row["document_id"]]
        chunk = text[row["chunk_char_start"][0] : row["chunk_char_end"][0]]
        assert any(f"<text>\n{chunk}\n</text>" in body["messages"][0]["content"] for body in asked)
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        assert text[row["kept_char_start"] : row["kept_char_end"]] in user["content"]
        assert chunk in user["content"]
        assert row["question"] in user["content"]
        assert assistant["content"] == row["answer"] == " ".join(chunk.split()[1:4])
        assert row["total_tokens"] <= 1500
        assert row["critique_verdict"] == "yes"
        assert row["question_reply"].startswith("<question>")
        assert (row["generator"], row["seed"], row["temperature"]) == ("scripted", 3, 0.7)
        short = "a few words" in user["content"].split("<document>")[0]
        assert short == (row["kind"] == "short")


def test_the_output_loads_with_datasets(make):
    from datasets import load_dataset

    columns = []
    for kind in ("jsonl", "parquet"):
        config = make(output=kind, format=kind)
        synthesize(config)
        data = load_dataset(config.output, split="train", cache_dir=f"{config.output}-cache")
        assert len(data) == 12
        assert data[0]["messages"][0]["role"] == "user"
        columns.append([row["messages"] for row in data])
    assert columns[0] == columns[1]


def test_all_options_together(make, server):
    checks = Checks(citation="answer", closed_book=True)
    questions = Questions(normal=0, short=0, multi_chunk=1, summary=1, per_document=2)
    config = make(questions=questions, checks=checks)
    report = synthesize(config)
    made = rows(config.output)
    assert report["outcomes"]["accepted"] == len(made) > 15
    kinds = {row["kind"] for row in made}
    assert kinds == {"multi_chunk", "summary"}
    for row in made:
        assert (len(row["chunk_char_start"]) == 2) == (row["kind"] == "multi_chunk")
        if row["kind"] == "multi_chunk":
            assert row["chunk_char_end"][0] <= row["chunk_char_start"][1]
            assert all(f'"{quote}"' in row["messages"][1]["content"] for quote in row["quotes"])
            assert row["closed_book_f1"] == 0
        else:
            assert row["closed_book_reply"] is None


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda p: "no tags at all", "no_tags"),
        (lambda p: "", "empty_reply"),
        (lambda p: (200, {}, completion("<question>" + "x" * 100, "length")), "cut_off"),
        (lambda p: f"<question>Q?</question><answer>{'word ' * 5000}</answer>", "does_not_fit|answer_not_short"),
        (lambda p: "<verdict>no</verdict>" if "<verdict>" in p else good(p), "critique_no"),
        (lambda p: "Hm." if "<verdict>" in p else good(p), "critique_unclear"),
        (lambda p: (400, {}, {"error": {"message": "maximum context length is 4096"}}), "prompt_too_long"),
        (lambda p: good(p).replace("<quote>", "<quote>not "), "quote_not_found"),
        (
            lambda p: (
                re.sub(r".*", "doc", p)
                if "what you know" in p
                else "<question>Q?</question><answer>doc</answer>"
                if "<verdict>" not in p
                else good(p)
            ),
            "known_without_document",
        ),
    ],
)
def test_bad_replies_are_rejected_by_reason(make, server, reply, reason):
    server.answer = lambda prompt, number: reply(prompt)
    quote = "quote" in reason
    known = reason == "known_without_document"
    config = make(max_documents=3, checks=Checks(citation="quote" if quote else "none", closed_book=known))
    report = synthesize(config)
    assert report["outcomes"]["rejected"] == 3
    assert all(re.fullmatch(reason, found) for found in report["rejected"])
    assert rows(config.output) == []
    assert report["output"] is None
    assert f"## Examples: {next(iter(report['rejected']))}" in Path(config.output, "report.md").read_text()


def test_faults_of_the_server_are_waited_out(make, server):
    faults = {
        1: (429, {"Retry-After": "0.2"}, {"error": {"message": "slow down"}}),
        2: (500, {}, {"error": {"message": "oops"}}),
        3: "cut",
        4: (200, {}, b'{"choices": [{"mess'),
        5: (200, {}, {"choices": []}),
        6: (200, {}, b""),
        7: (503, {}, b"<html>busy</html>"),
        8: "hang",
    }
    server.answer = lambda prompt, number: faults.get(number) or good(prompt)
    config = make(generator_timeout=1.0, generator_tries=9)
    report = synthesize(config)
    assert report["outcomes"]["accepted"] == 12
    assert len({row["id"] for row in rows(config.output)}) == 12
    retries = report["this_run"]["retries"]
    assert sum(retries.values()) == 8
    assert retries["rate limit"] == retries["status 500"] == retries["status 503"] == retries["timeout"] == 1
    assert report["usage"]["requests"] == len(server.requests) == 12 * 2 + 8


def test_retry_after_holds_everybody(make, server, monkeypatch):
    held = []
    monkeypatch.setattr("lit_long.synthesis.pace.Pace.hold", lambda self, seconds: held.append(seconds))
    server.answer = lambda prompt, number: (429, {"Retry-After": "7"}, {}) if number == 1 else good(prompt)
    synthesize(make(max_documents=2))
    assert held == [7.0]


def test_a_server_that_stays_away_ends_the_run_and_loses_nothing(make, server):
    server.answer = lambda prompt, number: good(prompt) if number <= 6 else (500, {}, {})
    config = make(generator_tries=2, generator_concurrency=1, max_failures=3)
    with pytest.raises(UserError, match="3 questions given up one after the other, the last because of status 500"):
        synthesize(config)
    server.answer = lambda prompt, number: good(prompt)
    before = len(server.requests)
    report = synthesize(config)
    assert report["outcomes"] == {"accepted": 12, "rejected": 0, "failed": 0, "skipped": 0}
    assert len(server.requests) - before == 9 * 2  # the first three were not asked again


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "the key was refused"), (404, "the address or the model is not known"), (400, "the request was refused")],
)
def test_what_no_retry_can_mend_ends_the_run_at_once(make, server, monkeypatch, status, message):
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    server.answer = lambda prompt, number: (status, {}, {"error": {"message": "bad key sk-secret-123"}})
    config = make(generator_api_key_env="MY_KEY", generator_concurrency=1)
    with pytest.raises(UserError, match=message) as error:
        synthesize(config)
    assert "sk-secret" not in str(error.value)
    assert len(server.requests) == 1
    assert server.headers[0]["authorization"] == "Bearer sk-secret-123"
    assert not any("sk-secret" in file.read_text() for file in Path(config.output).rglob("*") if file.is_file())


def test_one_text_that_is_refused_does_not_stop_the_others(make, server, capsys):
    def answer(prompt, number):
        if "<verdict>" not in prompt and number == 2:
            return 400, {}, {"error": {"message": "invalid byte in the prompt"}}
        if "<verdict>" not in prompt and number == 4:
            return 400, {}, {"error": {"message": "stopped", "code": "content_filter"}}
        return good(prompt)

    server.answer = answer
    config = make(generator_concurrency=1, checks=Checks(critique=False))
    report = synthesize(config)
    assert report["outcomes"] == {"accepted": 10, "rejected": 1, "failed": 1, "skipped": 0}
    assert report["rejected"] == {"refused": 1}
    # the first question of the next run is the one that was refused: earlier answers say that the settings are right
    server.answer = lambda prompt, number: (400, {}, {"error": {"message": "invalid byte in the prompt"}})
    assert synthesize(config)["outcomes"]["failed"] == 1


def test_a_password_in_the_address_is_not_shown(make, server):
    server.answer = lambda prompt, number: (404, {}, {"error": {"message": "no such model"}})
    with pytest.raises(UserError, match="the address or the model") as error:
        synthesize(make(generator_base_url=server.url.replace("//", "//me:secret@")))
    assert "secret" not in str(error.value)


def test_another_servers_key_is_not_sent(make, server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    synthesize(make(max_documents=1))
    assert all("somebody" not in str(headers) for headers in server.headers)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="environment variable NO_SUCH_KEY is not set"):
        synthesize(make(output="other", generator_api_key_env="NO_SUCH_KEY"))


def test_shards_together_are_the_whole(make, server):
    synthesize(make(output="whole"))
    whole = make(output="whole")
    for index in (2, 0, 1):
        report = synthesize(make(output="parts", shard=Shard(index=index, count=3)))
    assert report["outcomes"]["accepted"] == 12
    assert report["shards"] == {"count": 3, "found": 3}
    together = rows(make(output="parts").output)
    assert len(list(Path(make(output="parts").output, "data").iterdir())) == 3
    key = lambda row: row["id"]  # noqa: E731
    assert sorted(together, key=key) == sorted(rows(whole.output), key=key)


def test_documents_that_nothing_can_be_asked_about(make, tmp_path, tokenizer_dir):
    from lit_long.data.tokenizer import load_tokenizer

    text = "Once upon a time there was a document of some length. " * 20
    special = load_tokenizer(tokenizer_dir).eos_token
    file = tmp_path / "few.jsonl"
    lines = [
        {"id": "short", "text": "Too short."},
        {"id": "special", "text": text + special},
        {"id": "ok", "text": text},
    ]
    file.write_text("\n".join(map(json.dumps, lines)))
    report = synthesize(make(path=file))
    assert report["skipped"] == {"too_short": 1, "special_token_in_document": 1}
    assert report["outcomes"]["accepted"] == 1
    file.write_text("\n".join(map(json.dumps, [lines[2], lines[2]])))
    with pytest.raises(UserError, match="the document id 'ok' was used before"):
        synthesize(make(output="doubled", path=file))
    file.write_text(json.dumps(lines[2]) + "\nno json\n")
    with pytest.raises(UserError, match=r"few.jsonl:2: not valid JSON"):
        synthesize(make(output="bad", path=file))
    report = synthesize(make(output="bad", path=file, max_bad_rows=1))
    assert report["this_run"]["bad_rows"] == {"invalid_json": 1}


def test_lengths_that_leave_no_room(make):
    with pytest.raises(UserError, match=r"target_length 300: the template takes .* raise it"):
        synthesize(make(target_length=300))
    with pytest.raises(UserError, match=r"generator.context_length 600: prompts and replies take"):
        synthesize(make(generator_context_length=600))
