"""The tokenizer of a model or checkpoint that is measured."""

import pytest
import torch

from lit_long.errors import UserError
from lit_long.model.tokenizer import load_tokenizer


def test_a_checkpoint_names_its_tokenizer(tokenizer_dir, tmp_path):
    file = str(tmp_path / "last.ckpt")
    torch.save({"lit_long": {"format": 1, "tokenizer": tokenizer_dir}}, file)
    assert load_tokenizer(file).vocab_size == load_tokenizer(tokenizer_dir).vocab_size
    torch.save({"lit_long": {"format": 1, "tokenizer": None}}, file)
    with pytest.raises(UserError, match="names no tokenizer"):
        load_tokenizer(file)


def test_a_folder_without_one_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"No tokenizer in .*--tokenizer"):
        load_tokenizer(str(tmp_path))
