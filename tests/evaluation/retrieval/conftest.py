"""A real small model and real books, for the tests of retrieval."""

import json

import pytest
import torch

from lit_long.evaluation.retrieval.haystack import Haystack


@pytest.fixture(scope="module")
def texts(books):
    return [json.loads(line)["text"] for line in books.read_text().splitlines()][:3]


@pytest.fixture(scope="module")
def real(smollm2, texts):
    """The real chat model in float32 and a haystack of real books."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    return model, Haystack.of_texts(texts, tokenizer, name="books")
