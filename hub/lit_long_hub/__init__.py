"""Release side of lit-long: checkpoints to proved Hugging Face folders.

Public names are loaded on first use (PEP 562), so that ``lit-long export --help`` imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ExportMismatchError": "lit_long_hub.proof",
    "ExportResult": "lit_long_hub.export",
    "export_checkpoint": "lit_long_hub.export",
}
__all__ = ["ExportMismatchError", "ExportResult", "export_checkpoint"]

if TYPE_CHECKING:
    from lit_long_hub.export import ExportResult, export_checkpoint
    from lit_long_hub.proof import ExportMismatchError


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_long_hub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
