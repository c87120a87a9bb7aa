"""Attention for packed documents, for any Hugging Face decoder with full causal attention."""

from lit_long.attention.backends import BACKENDS
from lit_long.attention.packed import PACKED, attention_report, attention_trial, packed_attention, use_packed_attention
from lit_long.attention.select import AttentionReport

__all__ = [
    "BACKENDS",
    "PACKED",
    "AttentionReport",
    "attention_report",
    "attention_trial",
    "packed_attention",
    "use_packed_attention",
]
