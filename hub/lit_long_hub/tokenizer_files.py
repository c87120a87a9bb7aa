"""Puts a tokenizer beside the weights that transformers 4 and 5 both load.

The files are copied as they are, and only what breaks readers is changed in ``tokenizer_config.json``: transformers 5
names a class (``TokenizersBackend``) and a list (``extra_special_tokens``) that transformers 4 does not know, and the
base model's ``model_max_length`` would make readers cut or warn at the old length.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lit_long.errors import UserError
from lit_long_hub.atomic_file import copy_file, write_json, write_text
from lit_long_hub.weights import model_file

CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAME = "chat_template.jinja"
TOKENIZER_FILES = (
    "tokenizer.json",
    CONFIG_NAME,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    TEMPLATE_NAME,
)
_V5_CLASSES = (None, "TokenizersBackend", "SentencePieceBackend", "PythonBackend")
_THIS_MACHINE = ("name_or_path", "tokenizer_file", "special_tokens_map_file", "is_local", "local_files_only", "backend")


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer that was found, loaded and checked."""

    source: str
    """Folder or Hub id it was asked for by."""

    folder: Path
    """Where its files are on this machine."""

    names: list[str]
    """Its files there."""

    token_ids: dict[str, int | None]
    """``bos_token_id``, ``eos_token_id`` and ``pad_token_id``."""

    chat_template: str | None = None
    """The template that the run rendered its chats with, where it was not the tokenizer's own."""


def find_tokenizer(source: str, *, vocab_size: int, revision: str | None = None) -> TokenizerFiles:
    """Find a tokenizer and check that it can be the model's.

    Args:
        source: A folder or a Hub id.
        vocab_size: Rows of the model's embedding.
        revision: Of a Hub repository.

    Raises:
        UserError: No tokenizer there, one that does not load, or one with more tokens than the model has rows.
    """
    files = [path for name in TOKENIZER_FILES if (path := model_file(source, name, revision)) is not None]
    if not files:
        raise UserError(
            f"There are no tokenizer files in {source}. Point --tokenizer to the tokenizer that was trained with."
        )
    folder = files[0].parent
    tokenizer = load_tokenizer(folder, source)
    if len(tokenizer) > vocab_size:
        raise UserError(
            f"The tokenizer {source} has {len(tokenizer)} tokens, the model only {vocab_size} embedding rows: "
            "it is not the one that was trained with. Give the right one with --tokenizer."
        )
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return TokenizerFiles(source=source, folder=folder, names=[path.name for path in files], token_ids=ids)


def write_tokenizer(tokenizer: TokenizerFiles, folder: Path, *, context_length: int) -> list[str]:
    """Copy a tokenizer into a release.

    Args:
        tokenizer: What ``find_tokenizer`` found.
        folder: Where to write; exists.
        context_length: Becomes ``model_max_length``, in tokens.

    Returns:
        Names of the files written.
    """
    if "tokenizer.json" in tokenizer.names:
        names = _copy(tokenizer.folder, tokenizer.names, folder)
    else:  # a slow tokenizer: transformers converts it, since a release without tokenizer.json is slow to load
        with TemporaryDirectory() as scratch:
            load_tokenizer(tokenizer.folder, tokenizer.source).save_pretrained(scratch)
            names = _copy(Path(scratch), [name for name in TOKENIZER_FILES if Path(scratch, name).is_file()], folder)
    if tokenizer.chat_template is not None:
        write_text(folder / TEMPLATE_NAME, tokenizer.chat_template)
        names.append(TEMPLATE_NAME)
    _patch_config(folder, context_length, tokenizer.chat_template)
    return sorted({*names, CONFIG_NAME})


def load_trained(tokenizer: TokenizerFiles) -> Any:
    """The tokenizer as the run had it, for the proof."""
    loaded = load_tokenizer(tokenizer.folder, tokenizer.source)
    if tokenizer.chat_template is not None:
        loaded.chat_template = tokenizer.chat_template
    return loaded


def load_tokenizer(folder: Path, name: str) -> Any:
    """Load the tokenizer of a folder with transformers; ``name`` is what to call it in an error."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"The tokenizer in {name} does not load: {str(error).strip().splitlines()[0]}") from error


def _copy(source: Path, names: list[str], folder: Path) -> list[str]:
    return [copy_file(source / name, folder / name).name for name in names]


def _patch_config(folder: Path, context_length: int, template: str | None) -> None:
    path = folder / CONFIG_NAME
    content = json.loads(path.read_text()) if path.is_file() else {}
    content = {key: value for key, value in content.items() if key not in _THIS_MACHINE}
    if content.get("tokenizer_class") in _V5_CLASSES:
        content["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(content.get("extra_special_tokens"), list):
        content["additional_special_tokens"] = content.pop("extra_special_tokens")
    file = folder / TEMPLATE_NAME
    if template is not None or (file.is_file() and "chat_template" not in content):
        content["chat_template"] = file.read_text(encoding="utf-8")
    content["model_max_length"] = context_length
    write_json(path, content)
