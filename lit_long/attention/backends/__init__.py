"""Kernels that packed attention can run on: ``BACKENDS`` is the registry, by preference where speed is equal."""

from lit_long.attention.backends.case import AttentionBackend, AttentionCase
from lit_long.attention.backends.flash import FLASH_2, FLASH_3, FLASH_4
from lit_long.attention.backends.sdpa import CUDNN, SDPA
from lit_long.attention.backends.varlen import VARLEN

BACKENDS: dict[str, AttentionBackend] = {b.name: b for b in (VARLEN, FLASH_4, FLASH_3, FLASH_2, CUDNN, SDPA)}

__all__ = ["BACKENDS", "AttentionBackend", "AttentionCase"]
