"""The tokenizer of a model that is measured: from its folder, the Hub, or what a checkpoint recorded."""

from typing import Any

from lit_long.errors import UserError
from lit_long.model.inference import read_checkpoint
from lit_long.model.variant import parse_variant
from lit_long.repository import model_at


def load_tokenizer(path: str) -> Any:
    """Load the tokenizer of the model at ``path``.

    Args:
        path: as for :func:`lit_long.model.load_for_inference`.

    Raises:
        UserError: there is none, or a checkpoint names none.
    """
    path = parse_variant(path).path
    if path.endswith(".ckpt"):
        recorded = read_checkpoint(path)["lit_long"].get("tokenizer")
        if not recorded:
            raise UserError(f"{path} names no tokenizer. Give its folder or Hub id with --tokenizer.")
        path = str(recorded)
    from transformers import AutoTokenizer

    name, revision = model_at(path)
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"No tokenizer in {path} ({reason}). Give its folder or Hub id with --tokenizer.") from error
