"""The licence that a release inherits: read from the base model's own card and files, never guessed from a config."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lit_long.errors import UserError

_KEYS = ("license", "license_name", "license_link")
_LEGAL = re.compile(r"(LICEN[SC]E|USE_POLICY|NOTICE)([._-].*)?", re.IGNORECASE)
_LETS_RELICENSE = re.compile(r"(apache-2\.0|mit|bsd.*|isc|cc0-1\.0|unlicense|wtfpl|0bsd|zlib)")


@dataclass(frozen=True)
class Licence:
    """Terms of a release; empty where nothing is known, and then the card says nothing."""

    entries: dict[str, str] = field(default_factory=dict)
    """``license``, and ``license_name`` and ``license_link`` where the licence is ``other``, for the front matter."""

    files: list[Path] = field(default_factory=list)
    """Licence, notice and use-policy files of the base model, to be copied."""


def front_matter(text: str) -> dict[str, Any]:
    """The YAML head of a model card; empty where there is none or it is not YAML."""
    match = re.match(r"\s*---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        content = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def find_licence(given: str | None, base_folder: Path | None) -> Licence:
    """The licence of a release of a model derived from the one in ``base_folder``.

    Args:
        given: What the user says, a Hub licence id such as ``apache-2.0``.
        base_folder: Where the base model's files are on this machine, if they are.

    Raises:
        UserError: The base model's terms bind derivatives and the user gives others.
    """
    base: Mapping[str, Any] = {}
    files: list[Path] = []
    if base_folder is not None:
        card = base_folder / "README.md"
        base = front_matter(card.read_text(errors="replace")) if card.is_file() else {}
        files = sorted(path for path in base_folder.iterdir() if path.is_file() and _LEGAL.fullmatch(path.name))
    inherited = {key: base[key] for key in _KEYS if isinstance(base.get(key), str)}
    theirs = inherited.get("license")
    if given is None:
        return Licence(inherited if theirs else {}, files)
    if theirs and given != theirs and not _LETS_RELICENSE.fullmatch(theirs):
        raise UserError(
            f"--license is {given!r}, but the base model's card says {theirs!r}, whose terms bind what is "
            "derived from it. Leave --license out to inherit it."
        )
    return Licence(inherited if given == theirs else {"license": given}, files)
