"""Attention for packed documents, for any Hugging Face decoder with full causal attention."""

from lit_long.attention.packed import PACKED, packed_attention, use_packed_attention

__all__ = ["PACKED", "packed_attention", "use_packed_attention"]
