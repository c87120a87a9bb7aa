"""Does a model reach as far as it is measured? Positions beyond its window are an extrapolation, never an accident."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from lit_long.errors import UserError


def window_of(model: Any) -> int | None:
    """Tokens that a model says it reads, ``None`` where it does not say."""
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return None if window is None else int(window)


def check_learned_positions(model: Any, length: int) -> None:
    """Refuse lengths that a table of learned positions has no row for: nothing extrapolates there.

    Raises:
        UserError: with the window.
    """
    window = window_of(model)
    if window is None or length <= window:
        return
    words = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    for module in model.modules():
        # a few rows more than the window: OPT's table begins two rows late
        if isinstance(module, nn.Embedding) and module is not words and window <= module.num_embeddings < window + 8:
            raise UserError(
                f"Model type '{model.config.model_type}' has a learned position for each of {window:,} tokens and none "
                f"beyond, so it cannot be measured on {length:,}. Take at most {window:,}."
            )


def check_reach(models: Sequence[tuple[str, int | None]], length: int, *, allow_beyond: bool) -> list[str]:
    """Refuse a length that no model reaches; a model that others are compared with may be shorter.

    Args:
        models: name and window of each.
        length: tokens of the windows that are measured.
        allow_beyond: whether the extrapolation itself was asked for.

    Returns:
        A sentence for each model whose window is shorter.

    Raises:
        UserError: every model's window is shorter, and the extrapolation was not asked for.
    """
    short = [(name, window) for name, window in models if window is not None and window < length]
    if short and len(short) == len(models) and not allow_beyond:
        each = ", ".join(f"{name}: {window:,}" for name, window in short)
        raise UserError(
            f"No model reaches {length:,} tokens ({each}). Give one with extended positions, as MODEL#abf (untrained; "
            f"MODEL#none keeps the positions), a shorter --length, or ask for the extrapolation with --allow-beyond."
        )
    return [f"{name}: its window is {window:,} tokens; beyond that it extrapolates" for name, window in short]
