"""The place where attention of a sequence that is split over devices comes in (:mod:`lit_long.parallel`).

A model's attention layers share one :class:`~lit_long.attention.select.Selection`; it holds the exchange of the
micro-batch at hand, because activation checkpointing runs the layers again long after the forward pass.
"""

from typing import Protocol

import torch


class Exchange(Protocol):
    """Attention over tokens of which this device has a part.

    Attributes:
        position_ids: int64 [1, T], positions of this device's T tokens in their documents.
    """

    position_ids: torch.Tensor

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None) -> torch.Tensor:
        """Query [1, T, H, D], key and value [1, T, K, D] of this device's tokens -> [1, T, H, D]."""
        ...


def is_of(exchange: Exchange, position_ids: torch.Tensor | None, rows: int, tokens: int) -> bool:
    """Whether a forward pass with these positions is the one that ``exchange`` was made for."""
    if position_ids is exchange.position_ids:
        return True
    # a model may hand on a copy; tokens of another batch (a probe's) have other positions, or none
    if position_ids is None or (rows, tokens) != tuple(exchange.position_ids.shape):
        return False
    return position_ids.shape == exchange.position_ids.shape and torch.equal(position_ids, exchange.position_ids)
