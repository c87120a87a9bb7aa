"""First-sentence retrieval: what is asked, what stock generate gives back, and ROUGE-L by the package."""

import json

import numpy as np
import pytest
import torch

from lit_long.errors import UserError
from lit_long.evaluation.retrieval.first_sentence import QUESTION
from lit_long.evaluation.retrieval.grid import GridSpec, retrieval_grid
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.evaluation.retrieval.probe import make_probe
from lit_long.evaluation.retrieval.report import to_json, to_markdown


@pytest.fixture(scope="module")
def real(smollm2, books):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = [json.loads(line)["text"] for line in books.read_text().splitlines()][:3]
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    return model, Haystack.of_texts(texts, tokenizer, name="books")


def test_the_probe_asks_for_its_own_first_sentence(real):
    _, haystack = real
    for sample in range(8):
        probe = make_probe(haystack, "first_sentence", length=400, depth=0.0, sample=sample, seed=3)
        text = haystack.tokenizer.decode(probe.ids)
        assert len(probe.ids) == len(probe.control) == 400
        assert text.lstrip().startswith(probe.wanted)
        assert text.endswith(f"{QUESTION} {probe.wanted}")
        assert haystack.tokenizer.decode(probe.ids[-probe.answer :]).strip() == probe.wanted
        assert not haystack.tokenizer.decode(probe.control).lstrip().startswith(probe.wanted)
        assert np.array_equal(probe.ids[-probe.answer :], probe.control[-probe.answer :])


def test_rouge_is_that_of_stock_generate(real):
    from rouge_score.rouge_scorer import RougeScorer

    model, haystack = real
    spec = GridSpec(tasks=("first_sentence",), lengths=(256,), depths=(0.0, 0.5), samples=3)
    rows = retrieval_grid(model, haystack, spec)
    assert len(rows) == 3  # a first sentence has one depth
    for row in rows:
        probe = make_probe(haystack, "first_sentence", length=256, depth=0.0, sample=row["sample"], seed=0)
        prompt = torch.from_numpy(probe.ids[: -probe.answer])[None]
        with torch.no_grad():
            said = model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=64, pad_token_id=0
            )
        text = haystack.tokenizer.decode(said[0, prompt.shape[1] :], skip_special_tokens=True).strip()
        assert text.startswith(row["given"])
        assert row["rouge_l"] == RougeScorer(["rougeL"]).score(probe.wanted, row["given"])["rougeL"].fmeasure
        if row["exact"]:
            assert row["rouge_l"] == 1
    # the sentence is read from the text: without it, it costs more
    assert np.mean([row["control_nll"] - row["nll"] for row in rows]) > 0.5
    page = to_markdown({"real": rows}, spec, "books")
    assert "| ROUGE-L |" in page
    assert to_json({"real": rows}, spec, "books")["models"]["real"][0]["rouge_l"]["mean"] > 0


def test_text_without_sentences_is_one_message(real):
    _, haystack = real
    plain = Haystack.of_texts(["word " * 2000], haystack.tokenizer, name="words")
    with pytest.raises(UserError, match="begin with no sentence"):
        make_probe(plain, "first_sentence", length=256, depth=0.0, sample=0, seed=0)
