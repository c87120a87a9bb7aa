"""Where documents begin in packed rows, worked out once for all layers of a forward pass."""

import weakref
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch

from lit_long.errors import UserError


@dataclass(frozen=True)
class Boundaries:
    """Documents of B rows of T tokens, the rows laid end to end.

    Attributes:
        cu_seqlens: int32 [documents + 1], where documents begin and the last ends, on the device of the tokens.
        rows: B.
        tokens: T.
        longest: length of the longest document, or a bound above it; None: not known yet.
    """

    cu_seqlens: torch.Tensor
    rows: int
    tokens: int
    longest: int | None = None

    @cached_property
    def lengths(self) -> list[int]:
        """Length of each document, without empty ones. On a GPU this waits for it, once for each batch.

        Raises:
            UserError: the boundaries do not cover the rows, or a document would reach over two.
        """
        cuts = self.cu_seqlens.tolist()
        starts = range(0, self.rows * self.tokens + 1, self.tokens)
        if cuts != sorted(cuts) or cuts[0] != 0 or cuts[-1] != starts[-1] or not set(cuts).issuperset(starts):
            raise UserError(
                f"cu_seq_lens_q is {cuts}; it must rise from 0, must cover {self.rows} x {self.tokens} tokens and hold "
                f"every row's start"
            )
        return [stop - start for start, stop in pairwise(cuts) if stop > start]

    @cached_property
    def max_seqlen(self) -> int:
        """Tokens of the longest document, or the bound that was given."""
        return self.longest if self.longest is not None else max(self.lengths)

    @property
    def one_per_row(self) -> bool:
        """Whether every row is one document."""
        return len(self.cu_seqlens) == self.rows + 1


_LAST: list[tuple["weakref.ref[torch.Tensor]", int, tuple[int, ...], Boundaries]] = []  # of the latest forward pass


def boundaries(
    cu_seqlens: torch.Tensor | None,
    position_ids: torch.Tensor | None,
    rows: int,
    tokens: int,
    longest: int | None = None,
) -> Boundaries | None:
    """Boundaries from ``cu_seqlens`` (int [documents + 1]), else from restarts in ``position_ids`` [B or 1, T].

    None if there is neither. All layers of a forward pass hand in the same tensor, which is looked at once.

    Raises:
        UserError: ``cu_seqlens`` do not cover the rows, or a document would reach over two (on a GPU an assertion of
            the device, so that nothing waits for it); or ``position_ids`` have more than two dimensions.
    """
    source = cu_seqlens if cu_seqlens is not None else position_ids
    if source is None:
        return None
    key = (rows, tokens, longest or 0, cu_seqlens is not None)
    version = -1 if source.is_inference() else source._version
    if _LAST:
        seen, seen_version, seen_key, found = _LAST[0]
        if seen() is source and seen_version == version >= 0 and seen_key == key:
            return found
    if cu_seqlens is not None:
        found = Boundaries(cu_seqlens.to(torch.int32), rows, tokens, longest)
        _check(found)
    else:
        found = Boundaries(_restarts(source, rows, tokens), rows, tokens)
    _LAST[:] = [(weakref.ref(source), version, key, found)]
    return found


def _check(found: Boundaries) -> None:
    """Kernels trust the boundaries: what they do not cover would be left as it was in memory."""
    cuts = found.cu_seqlens
    if cuts.device.type == "cpu":
        _ = found.lengths
    if cuts.device.type != "cuda":
        return
    starts = torch.arange(found.rows + 1, device=cuts.device, dtype=cuts.dtype) * found.tokens
    right = (cuts.diff() >= 0).all() & (cuts[0] == 0) & (cuts[-1] == starts[-1]) & torch.isin(starts, cuts).all()
    torch._assert_async(right, f"cu_seq_lens_q must rise from 0 and cover {found.rows} x {found.tokens} tokens")


def _restarts(position_ids: torch.Tensor, rows: int, tokens: int) -> torch.Tensor:
    if position_ids.ndim != 2:
        raise UserError(
            f"position_ids is {list(position_ids.shape)}; packed attention reads documents from [B, T] positions. A "
            f"model with several positions a token (M-RoPE) needs cu_seq_lens_q, or attention: sdpa"
        )
    # rows may share one [1, T]; a document begins wherever the position does not continue the one before
    begins = torch.ones(rows, tokens, dtype=torch.bool, device=position_ids.device)
    begins[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
    starts = begins.flatten().nonzero().squeeze(1)
    return torch.cat([starts, starts.new_tensor([rows * tokens])]).to(torch.int32)
