"""Fixtures: a byte-level tokenizer and checkpoints that use it, made without any network."""

import copy

import pytest
from hub_checkpoints import NATIVE, record, save


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A byte-level BPE tokenizer as transformers 5 saves it, with a chat template and an extra special token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["a long book is a book that is long, and the end is not near"] * 9, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=["<|end|>"],
        chat_template="{% for m in messages %}{{ m.content + '\\n' }}{% endfor %}",
        model_max_length=NATIVE,
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def make_checkpoint(tmp_path, tokenizer_folder):
    """Make a checkpoint of a model: ``make_checkpoint(model, "abf", base_model=..., state=...)`` -> its path."""

    def make(model, method="abf", *, state=None, name="run.ckpt", **changes):
        entry = record(model, method, **({"tokenizer": str(tokenizer_folder)} | changes))
        weights = {key: value.clone() for key, value in (state or model.state_dict()).items()}
        return save(tmp_path / name, weights, copy.deepcopy(entry))

    return make
