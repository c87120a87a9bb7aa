"""lit-long: continual pretraining of Hugging Face decoders to long contexts, on PyTorch Lightning.

Public names are loaded on first use (PEP 562): ``import lit_long`` costs no torch import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "LongContextModule": "lit_long.module",
    "RopeScaling": "lit_long.rope",
    "scale_rope": "lit_long.rope",
}
__all__ = ["LongContextModule", "RopeScaling", "__version__", "scale_rope"]

if TYPE_CHECKING:
    from lit_long.module import LongContextModule
    from lit_long.rope import RopeScaling, scale_rope


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_long' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
