"""The folder an export writes into: new, empty, or an earlier export of ours, whose files are then replaced.

Writing in place (and not in a sibling that is renamed) lets the folder be a mounted volume. In exchange the old release
is removed first: config.json and README.md go before anything else, so that a half-replaced folder loads nowhere.
"""

import json
import shutil
from collections.abc import Set
from pathlib import Path
from typing import Any

from lit_long import __version__
from lit_long.errors import UserError
from lit_long_hub.checkpoint import Checkpoint
from lit_long_hub.custom_code import CODE_PATTERNS
from lit_long_hub.privacy import public, public_source
from lit_long_hub.proof import VERIFICATION_NAME
from lit_long_hub.report import PLOT_FOLDER
from lit_long_hub.tokenizer_files import TOKENIZER_FILES

RECORD_NAME = "lit_long.json"
WRITER = "lit-long"
_REMOVED_FIRST = ("config.json", "adapter_config.json", "README.md", "model.safetensors.index.json")
_REMOVED = ("config.json.refused", "NOTICE", "generation_config.json", VERIFICATION_NAME, *TOKENIZER_FILES)
_WEIGHTS = ("model.safetensors", "model-?????-of-?????.safetensors", "adapter_model.safetensors")
_PATTERNS = (*_WEIGHTS, f"{PLOT_FOLDER}/*.png", ".*.tmp", *CODE_PATTERNS)


def check_folder(folder: Path) -> None:
    """Refuse an output folder that is a file or holds something else than an earlier export.

    Args:
        folder: The output folder; need not exist.

    Raises:
        UserError: Saying what to do.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file. Give a folder for --output.")
    ours = any(_is_ours(folder / name) for name in (RECORD_NAME, VERIFICATION_NAME))
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UserError(f"{folder} is not empty and not an earlier export of lit-long. Give a new or empty folder.")


def prepare_folder(folder: Path, *, inputs: list[Path], needed: int, keep: Set[str] = frozenset()) -> None:
    """Create ``folder``, or clear an earlier export out of it; files that are not an export's stay.

    Args:
        folder: The output folder.
        inputs: Files and folders that the export reads: the output may be none of them, nor hold one.
        needed: Bytes that will be written.
        keep: Weight files that stay.

    Raises:
        UserError: A file of that name, a folder with other content, one that the export reads from, or too
            little disk space.
    """
    for path in inputs:
        if path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"The export reads from {path}, so {folder} cannot be its output. Give another folder.")
    check_folder(folder)
    if folder.is_dir():
        for name in (*_REMOVED_FIRST, *_REMOVED):
            (folder / name).unlink(missing_ok=True)
        for pattern in _PATTERNS:
            for path in folder.glob(pattern):
                if path.name not in keep:
                    path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e9:.2f} GB free, the weights need {needed / 1e9:.2f} GB. Free space, give another "
            "folder or a smaller --dtype."
        )


def release_record(source: Checkpoint, *, base_model: str | None, base_revision: str | None) -> dict[str, Any]:
    """The content of lit_long.json: how the release was made, for machines; nothing that names a local place.

    Args:
        source: The checkpoint.
        base_model: Hub id of the base model, None where it is not public.
        base_revision: The base model's revision.
    """
    training = dict(source.record.get("training") or {})
    if isinstance(training.get("data"), dict):
        training["data"] = {**training["data"], "source": public_source(training["data"].get("source"))}
    lora = source.record.get("lora")
    record = {
        "writer": WRITER,
        "format": 1,
        "exported_with": __version__,
        "global_step": source.global_step,
        "rope": source.record["rope"],
        "base_model": base_model,
        "base_revision": base_revision if base_model else None,
        "lora": {key: lora.get(key) for key in ("r", "lora_alpha", "use_rslora")} if lora else None,
        "training": training,
        "versions": source.record.get("versions"),
    }
    return public(record)


def _is_ours(marker: Path) -> bool:
    try:
        content = json.loads(marker.read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("writer") == WRITER
