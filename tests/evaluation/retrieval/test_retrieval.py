"""Retrieval decided in one forward pass is what greedy decoding gives, and the probes are what they say."""

import json

import numpy as np
import pytest
import torch

from lit_long.entry import main
from lit_long.errors import UserError
from lit_long.evaluation.retrieval.grid import GridSpec, retrieval_grid
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.evaluation.retrieval.probe import make_probe
from lit_long.evaluation.retrieval.summary import LengthScore, Share, by_length, effective_length
from lit_long.evaluation.retrieval.tasks import TASKS


def test_one_forward_decides_what_greedy_generate_gives(real):
    model, haystack = real
    spec = GridSpec(tasks=("passkey", "variable_tracking"), lengths=(240,), depths=(0.5,), samples=4)
    rows = retrieval_grid(model, haystack, spec)
    found = []
    for row in rows:
        cell = {key: row[key] for key in ("length", "depth", "sample")}
        probe = make_probe(haystack, row["task"], seed=0, **cell)
        prompt = torch.from_numpy(probe.ids[: -probe.answer])[None]
        with torch.no_grad():
            said = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=probe.answer,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
        found.append(said[0, prompt.shape[1] :].tolist() == probe.ids[-probe.answer :].tolist())
    assert [row["exact"] for row in rows] == found
    assert 0 < sum(found) < len(found)  # hits and misses were compared
    # what is hidden is read: without it nothing is right, and the answer costs more
    assert not any(row["control_exact"] for row in rows)
    passkeys = [row for row in rows if row["task"] == "passkey"]
    assert all(row["control_nll"] - row["nll"] > 0.5 for row in passkeys)


def test_the_loss_is_that_of_the_answer(real):
    model, haystack = real
    (row,) = retrieval_grid(model, haystack, GridSpec(lengths=(200,), depths=(0.5,), samples=1, control=False))
    probe = make_probe(haystack, "needle", length=200, depth=0.5, sample=0, seed=0)
    ids = torch.from_numpy(probe.ids)[None]
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")[-probe.answer :]
    assert row["nll"] == pytest.approx(float(nll.mean()), rel=1e-4)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("which", ["smollm2", "quickstart"])
def test_probes_are_exact_by_token(task, which, texts, smollm2, tokenizer_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2 if which == "smollm2" else tokenizer_dir)
    haystack = Haystack.of_texts(texts, tokenizer, name="books")
    for depth in (0.0, 0.4, 1.0):
        probe = make_probe(haystack, task, length=1500, depth=depth, sample=1, seed=3, first=0)
        assert len(probe.ids) == len(probe.control) == 1500
        assert probe.ids[0] == probe.control[0] == 0
        assert np.array_equal(probe.ids[-probe.answer - 1 :], probe.control[-probe.answer - 1 :])
        text, answer = tokenizer.decode(probe.ids[: -probe.answer]), tokenizer.decode(probe.ids[-probe.answer :])
        for part in answer.strip().split(", "):
            assert part in text
            if task not in ("common_words", "frequent_word"):
                assert part not in tokenizer.decode(probe.control[: -probe.answer])
        if len(text) and task in ("needle", "passkey", "multi_key"):
            assert probe.depth == pytest.approx(depth, abs=0.12)
        again = make_probe(haystack, task, length=1500, depth=depth, sample=1, seed=3, first=0)
        assert np.array_equal(probe.ids, again.ids)
        other = make_probe(haystack, task, length=1500, depth=depth, sample=2, seed=3, first=0)
        assert not np.array_equal(probe.ids, other.ids)


def test_a_needle_stands_at_a_sentence_end(real):
    _, haystack = real
    for sample in range(8):
        probe = make_probe(haystack, "needle", length=600, depth=0.5, sample=sample, seed=0)
        text = haystack.tokenizer.decode(probe.ids)
        before = text[: text.index(" The registered number of")].rstrip(" \n")
        assert before[-1] in '.!?"', before[-40:]


def test_a_random_model_finds_nothing(tiny_model_dir, texts):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    haystack = Haystack.of_texts(texts, AutoTokenizer.from_pretrained(tiny_model_dir), name="books")
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    spec = GridSpec(tasks=tuple(TASKS), lengths=(900,), depths=(0.5,), samples=1)
    with pytest.raises(UserError, match="beyond the model's window of 64"):
        retrieval_grid(model, haystack, spec)
    rows = retrieval_grid(model, haystack, spec, allow_beyond=True)
    assert not any(row["exact"] for row in rows)
    assert all(abs(row["nll"] - np.log(4096)) < 1 for row in rows)


def test_tokens_of_another_model_are_refused(tiny_model_dir, real):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    with pytest.raises(UserError, match="its tokenizer is another one"):
        retrieval_grid(model, real[1], GridSpec(lengths=(64,)))


def _score(length, hits, count=20):
    return LengthScore("needle", length, Share(hits, count), 0.0, 0.0, None, None)


def test_effective_length_asks_the_lower_end():
    assert (round(Share(9, 10).low, 2), round(Share(9, 10).high, 2)) == (0.60, 0.98)  # eval-facts 3.7
    assert effective_length([_score(1024, 200, 200), _score(2048, 190, 200), _score(4096, 100, 200)]) == 2048
    # the same shares from few probes show nothing
    assert effective_length([_score(1024, 20), _score(2048, 19), _score(4096, 10)]) is None
    assert effective_length([_score(1024, 0), _score(2048, 0)]) is None


def test_command_resumes_and_reports(smollm2, texts, tmp_path, capsys):
    (tmp_path / "book.txt").write_text(texts[0])
    output = tmp_path / "out"
    command = ["retrieve", f"smol={smollm2}", "--text", str(tmp_path / "book.txt"), "--lengths", "100", "128"]
    command += ["--depths", "0", "1", "--samples", "1", "--tasks", "passkey", "--output", str(output), "--json"]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert [score["length"] for score in report["models"]["smol"]] == [100, 128]
    raw = output / "raw" / "smol.jsonl"
    whole = raw.read_bytes()
    # killed in the middle of a row: the rest is measured, the same file comes out
    raw.write_bytes(whole[: len(whole) // 2])
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == report
    assert raw.read_bytes() == whole
    assert (output / "smol_passkey.png").read_bytes().startswith(b"\x89PNG")
    assert "| smol | 128 |" in (output / "retrieval.md").read_text()
    rows = [json.loads(line) for line in whole.decode().splitlines()[1:]]
    assert by_length(rows)[0].exact.count == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--lengths", "128", "--tasks", "nothing"], "no retrieval task 'nothing'"),
        (["--lengths", "9000"], "beyond the model's window of 8,192"),
        (["--lengths", "32"], "at least 64"),
        (["--lengths", "128", "--corpus", "somewhere"], "and not both"),
        (["--lengths", "128", "--first-token", "49152"], "the model's tokens are 0 to 49,151"),
        (["--lengths", "8000"], "no document of 'book' has"),
    ],
)
def test_mistakes(arguments, says, smollm2, texts, tmp_path, capsys):
    (tmp_path / "book.txt").write_text(texts[0][:4000])
    assert main(["retrieve", smollm2, "--text", str(tmp_path / "book.txt"), *arguments]) == 2
    assert says in capsys.readouterr().err
