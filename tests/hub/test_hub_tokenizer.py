"""Tokenizer files: what is changed for older readers, what is kept, what is refused."""

import json
import shutil

import pytest
from hub_checkpoints import CONTEXT, VOCAB

from lit_long.errors import UserError
from lit_long_hub.config_files import special_ids
from lit_long_hub.tokenizer_files import find_tokenizer, write_tokenizer


def test_a_tokenizer_of_transformers_5_is_made_readable_for_4(tokenizer_folder, tmp_path):
    from transformers import AutoTokenizer

    before = json.loads((tokenizer_folder / "tokenizer_config.json").read_text())
    assert before["tokenizer_class"] == "TokenizersBackend"  # else this test shows nothing
    assert before["extra_special_tokens"] == ["<|end|>"]
    found = find_tokenizer(str(tokenizer_folder), vocab_size=VOCAB)
    names = write_tokenizer(found, tmp_path, context_length=CONTEXT)
    assert names == ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    after = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert after["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert after["additional_special_tokens"] == ["<|end|>"]
    assert after["chat_template"] == (tokenizer_folder / "chat_template.jinja").read_text()
    assert after["model_max_length"] == CONTEXT
    assert not after.keys() & {"backend", "extra_special_tokens", "name_or_path"}
    assert (tmp_path / "tokenizer.json").read_bytes() == (tokenizer_folder / "tokenizer.json").read_bytes()

    old, new = AutoTokenizer.from_pretrained(tokenizer_folder), AutoTokenizer.from_pretrained(tmp_path)
    text = "a long book<|end|> Zwölf 漢字 🙂"
    assert new(text)["input_ids"] == old(text)["input_ids"]
    assert new.decode(new(text)["input_ids"], skip_special_tokens=True) == "a long book Zwölf 漢字 🙂"
    message = [{"role": "user", "content": "hi"}]
    assert new.apply_chat_template(message, tokenize=False) == old.apply_chat_template(message, tokenize=False)


def test_a_class_that_old_readers_know_is_kept(tokenizer_folder, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(tokenizer_folder, home)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "</s>",
        "name_or_path": "/data/me/base",
        "x": 1,
    }
    (home / "tokenizer_config.json").write_text(json.dumps(config))
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(find_tokenizer(str(home), vocab_size=VOCAB), out, context_length=CONTEXT)
    after = json.loads((out / "tokenizer_config.json").read_text())
    assert after.pop("chat_template")
    assert after == {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "x": 1, "model_max_length": CONTEXT
    }  # fmt: skip


def test_a_tokenizer_that_cannot_be_the_models_is_refused(tokenizer_folder, tmp_path):
    with pytest.raises(UserError, match="only 100 embedding rows"):
        find_tokenizer(str(tokenizer_folder), vocab_size=100)
    with pytest.raises(UserError, match="no tokenizer files"):
        find_tokenizer(str(tmp_path), vocab_size=VOCAB)
    with pytest.raises(UserError, match="neither a folder here nor a Hub model"):
        find_tokenizer("nobody/no-such-tokenizer", vocab_size=VOCAB)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="does not load"):
        find_tokenizer(str(tmp_path), vocab_size=VOCAB)


def test_special_ids_come_from_the_tokenizer_and_keep_a_list_of_end_tokens():
    class Config:
        bos_token_id, eos_token_id, pad_token_id = 7, [1, 9], None

    assert special_ids(Config, {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}) == {
        "bos_token_id": 0,
        "eos_token_id": [1, 9],
    }
    assert special_ids(Config, {"bos_token_id": None, "eos_token_id": 2}) == {"bos_token_id": 7, "eos_token_id": 2}
