"""A Hub over HTTP for each test, and clients of its users."""

import shutil
from pathlib import Path

import pytest
from hub_server import HubServer


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A running test Hub that huggingface_hub takes for the real one."""
    import huggingface_hub.constants as constants
    import huggingface_hub.hf_api as hf_api

    server = HubServer(tmp_path / "hub")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(hf_api.api, "endpoint", server.url)  # made at import: transformers asks it about tokenizers
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_writer")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def api(hub):
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.url, token="hf_writer")


@pytest.fixture
def other_api(hub):
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.url, token="hf_stranger")


@pytest.fixture(scope="session")
def first_release(tmp_path_factory, small_tokenizer):
    from release_folder import export

    return export(tmp_path_factory.mktemp("first") / "model", small_tokenizer)


@pytest.fixture(scope="session")
def second_release(tmp_path_factory, small_tokenizer):
    """Other weights, in fewer shards."""
    from release_folder import export

    return export(tmp_path_factory.mktemp("second") / "model", small_tokenizer, seed=5, max_shard_size="60KB")


@pytest.fixture
def release(first_release, tmp_path):
    """A release that a test may change."""
    return Path(shutil.copytree(first_release, tmp_path / "model"))


@pytest.fixture(scope="session")
def small_tokenizer(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    core.train_from_iterator(["a long book is a book that is long"] * 9, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    return folder
