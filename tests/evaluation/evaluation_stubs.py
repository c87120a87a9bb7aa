"""Small stand-ins for a corpus and for models, shared by the evaluation tests."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig

VOCABULARY = 64


class FakeCorpus:
    """Documents in memory; ids of document d are congruent to d modulo the number of documents."""

    def __init__(self, sizes, name="fake", documents=None):
        self.name, self.info = name, {"tokenizer": "fake"}
        self._documents = documents or [
            (np.arange(size, dtype=np.int32) * len(sizes) + d).astype(np.int32) for d, size in enumerate(sizes)
        ]
        self.documents = len(self._documents)

    def document(self, index):
        return self._documents[index]

    def document_id(self, index):
        return f"doc-{index}"


def random_corpus(sizes, seed=0):
    rng = np.random.default_rng(seed)
    return FakeCorpus(sizes, documents=[rng.integers(0, VOCABULARY, size=s).astype(np.int32) for s in sizes])


def periodic_corpus(documents, size, period, seed=0):
    """Every document repeats its own random sequence of ``period`` tokens."""
    rng = np.random.default_rng(seed)
    texts = [np.resize(rng.integers(0, VOCABULARY, size=period), size).astype(np.int32) for _ in range(documents)]
    return FakeCorpus([size] * documents, documents=texts)


def tiny_llama(seed=0, vocabulary=VOCABULARY):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


class _CopyDecoder(nn.Module):
    def __init__(self, period):
        super().__init__()
        self.period = period

    def forward(self, input_ids, use_cache=False):
        """Scores for "the next token is the one ``period`` places before it", nothing where that is out of reach."""
        back = self.period - 1
        guess = torch.zeros(*input_ids.shape, VOCABULARY)
        if back < input_ids.shape[1]:
            guess[:, back:] = 4.0 * nn.functional.one_hot(input_ids[:, : input_ids.shape[1] - back], VOCABULARY)
        return SimpleNamespace(last_hidden_state=guess)


class CopyModel(nn.Module):
    """Uses its context to exactly ``period`` tokens back, and knows nothing else."""

    def __init__(self, period):
        super().__init__()
        self.config = PreTrainedConfig(vocab_size=VOCABULARY)
        self.decoder = _CopyDecoder(period)
        self.head = nn.Linear(VOCABULARY, VOCABULARY, bias=False)
        self.head.weight.data = torch.eye(VOCABULARY)

    def get_decoder(self):
        return self.decoder

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache=False):
        return SimpleNamespace(logits=self.head(self.decoder(input_ids).last_hidden_state))
