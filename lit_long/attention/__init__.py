"""Attention for packed documents, for any Hugging Face decoder with full causal attention."""

from lit_long.attention.backends import BACKENDS
from lit_long.attention.packed import PACKED, attention_report, packed_attention, trial, use_packed_attention
from lit_long.attention.select import AttentionReport, proving

__all__ = [
    "BACKENDS",
    "PACKED",
    "AttentionReport",
    "attention_report",
    "packed_attention",
    "proving",
    "trial",
    "use_packed_attention",
]
