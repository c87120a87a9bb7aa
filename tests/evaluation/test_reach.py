"""Lengths beyond a model's window: refused or said, never wrapped."""

import pytest
import torch
from evaluation_stubs import random_corpus, tiny_llama
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from lit_long.errors import UserError
from lit_long.evaluation import position_nll
from lit_long.evaluation.battery import NamedModel, evaluate_models
from lit_long.evaluation.reach import check_reach, window_of
from lit_long.evaluation.windows import take_windows


def test_refused_unless_one_model_reaches_or_it_was_asked_for():
    with pytest.raises(UserError, match=r"No model reaches 2,048 tokens \(a: 512, b: 1,024\).*#abf.*--allow-beyond"):
        check_reach([("a", 512), ("b", 1024)], 2048, allow_beyond=False)
    assert check_reach([("a", 512), ("b", 1024)], 2048, allow_beyond=True)[1].startswith("b: its window is 1,024")
    assert check_reach([("a", 512), ("b", 4096)], 2048, allow_beyond=False) == [
        "a: its window is 512 tokens; beyond that it extrapolates"
    ]
    assert check_reach([("a", 2048), ("b", None)], 2048, allow_beyond=False) == []


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=128, n_embd=16, n_layer=1, n_head=2))


def opt():
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16, "num_hidden_layers": 1}
    return OPTForCausalLM(OPTConfig(vocab_size=64, num_attention_heads=2, max_position_embeddings=128, **sizes))


@pytest.mark.parametrize("make", [gpt2, opt])
def test_learned_positions_end(make):
    model = make().eval()
    assert window_of(model) == 128
    assert position_nll(model, torch.zeros(1, 129, dtype=torch.long)).shape == (1, 128)
    with pytest.raises(UserError, match="learned position for each of 128 tokens"):
        position_nll(model, torch.zeros(1, 130, dtype=torch.long))


class Quiet:
    def __init__(self):
        self.notes = []

    def start(self, name, tokens):
        pass

    def advance(self, tokens):
        pass

    def note(self, message):
        self.notes.append(message)


def test_the_battery_asks_before_it_measures_and_remembers(tmp_path):
    from types import SimpleNamespace

    model = tiny_llama(0)
    model.config.max_position_embeddings = 128
    windows = take_windows(random_corpus([600, 600]), 256, 2, 0)
    folder = tmp_path / "model"
    folder.mkdir()
    options = {
        "load": lambda path: SimpleNamespace(model=model, native_length=128, source={}),
        "raw_folder": tmp_path / "raw",
        "context_control": False,
    }
    asked = [NamedModel("tiny", str(folder))]
    with pytest.raises(UserError, match="No model reaches 256 tokens"):
        evaluate_models(asked, windows, progress=Quiet(), **options)
    assert not (tmp_path / "raw").exists()
    evaluate_models(asked, windows, progress=Quiet(), allow_beyond=True, **options)
    again = Quiet()
    with pytest.raises(UserError, match="No model reaches 256 tokens"):  # known from the raw file, without loading
        evaluate_models(asked, windows, progress=again, **options | {"load": None})
