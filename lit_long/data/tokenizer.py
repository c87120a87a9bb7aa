"""Loading a tokenizer, and the fingerprint that ties a corpus to the tokenizer that made it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long.repository import model_at


def load_tokenizer(name: str) -> Any:
    """A Hugging Face fast tokenizer by Hub id (``hf://org/name@revision`` too), folder or GGUF file.

    Raises:
        UserError: it cannot be loaded, is not a fast tokenizer, or has no EOS token (documents end with EOS).
    """
    from transformers import AutoTokenizer

    path = Path(name)
    try:
        if path.suffix == ".gguf":
            tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        else:
            place, revision = model_at(name)
            tokenizer = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"tokenizer {name!r} cannot be loaded: {_first_line(error)}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"tokenizer {name!r} is not a fast tokenizer; convert it to tokenizer.json first")
    if tokenizer.eos_token_id is None:
        raise UserError(f"tokenizer {name!r} has no EOS token; documents are separated by EOS, so set one")
    return tokenizer


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """SHA-256 (hex) of everything that decides which ids a text becomes."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    keep = {key: state.get(key) for key in ("normalizer", "pre_tokenizer", "post_processor", "model")}
    added = sorted((t["id"], t["content"]) for t in state.get("added_tokens", []))
    blob = json.dumps([keep, added, tokenizer.eos_token_id, tokenizer.bos_token_id], sort_keys=True)
    return hashlib.sha256(blob.encode()).hexdigest()


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer itself starts a text with BOS (Llama 2 and 3 do, SmolLM and Qwen do not)."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id is not None and len(ids) > 1 and ids[0] == tokenizer.bos_token_id


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
