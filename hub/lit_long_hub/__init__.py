"""Release side of lit-long: checkpoints to proved Hugging Face folders.

Public names are loaded on first use (PEP 562), so that ``lit-long export --help`` imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "ExportOnEnd": "lit_long_hub.export_on_end",
    "ExportOptions": "lit_long_hub.inputs",
    "ExportMismatchError": "lit_long_hub.proof",
    "ExportResult": "lit_long_hub.export",
    "PullResult": "lit_long_hub.pull",
    "Published": "lit_long_hub.remote.publish",
    "export_checkpoint": "lit_long_hub.export",
    "pull_release": "lit_long_hub.pull",
    "push_checkpoint": "lit_long_hub.streamed_push",
    "push_dataset": "lit_long_hub.push_data",
    "push_release": "lit_long_hub.push",
    "validate_release": "lit_long_hub.validate",
}
__all__ = [
    "ExportMismatchError",
    "ExportOnEnd",
    "ExportOptions",
    "ExportResult",
    "Published",
    "PullResult",
    "export_checkpoint",
    "pull_release",
    "push_checkpoint",
    "push_dataset",
    "push_release",
    "validate_release",
]

if TYPE_CHECKING:
    from lit_long_hub.export import ExportResult, export_checkpoint
    from lit_long_hub.export_on_end import ExportOnEnd
    from lit_long_hub.inputs import ExportOptions
    from lit_long_hub.proof import ExportMismatchError
    from lit_long_hub.pull import PullResult, pull_release
    from lit_long_hub.push import push_release
    from lit_long_hub.push_data import push_dataset
    from lit_long_hub.remote.publish import Published
    from lit_long_hub.streamed_push import push_checkpoint
    from lit_long_hub.validate import validate_release


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'lit_long_hub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
