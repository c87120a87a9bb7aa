"""What may be published: Hub ids yes, folders of the machine that trained no.

A checkpoint remembers where its base model and data came from. On a training machine those are often folders, whose
names carry users, hosts and customers; and the Hub refuses a card whose ``base_model`` is a path. The rules here decide
by the text alone, and by the disk only where a relative folder looks like a Hub id (``runs/base``).
"""

import re
from pathlib import Path, PurePath
from typing import Any

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LOCAL = re.compile(r"(/|~|\.\.?(/|$)|file:|[A-Za-z]:[\\/]|\\\\)")
_PATH_IN_TEXT = re.compile(r"""(?<![\w:/.<~-])(?:~|\.{0,2})/(?!/)[^\s|`"'()<>]+|\b[A-Za-z]:\\[^\s|`"'()<>]*""")


def is_local(text: str) -> bool:
    """Whether ``text`` names a place on this (or the training) machine instead of something public."""
    return bool(_LOCAL.match(text))


def hub_id(name: str | None, *, revision: str | None = None) -> str | None:
    """``name`` if it is the id of a Hub repository, else None.

    Args:
        name: A Hub id or a folder, as the checkpoint or the user gave it.
        revision: The revision that was loaded: only Hub repositories have one, so it settles ``runs/base``-like names.
    """
    if not name or is_local(name) or not _HUB_ID.fullmatch(name):
        return None
    owner_is_folder = "/" in name and Path(name).parent.is_dir()
    if revision is None and (Path(name).exists() or owner_is_folder):
        return None
    return name


def public_source(source: Any) -> str | None:
    """A data source that may be named in public: a web address or a Hub id; None for anything else."""
    if not isinstance(source, str):
        return None
    return source if source.startswith(("https://", "http://")) else hub_id(source)


def without_paths(text: str) -> str:
    """``text`` with every local path in it cut to its last component (for tables taken over from a report)."""
    return _PATH_IN_TEXT.sub(lambda match: PurePath(match[0].replace("\\", "/")).name, text)


def public(value: Any) -> Any:
    """A copy of a JSON-like ``value`` without empty entries and without those whose text is a local place."""
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items() if not _dropped(item)}
    if isinstance(value, (list, tuple)):
        return [public(item) for item in value if not _dropped(item)]
    return value


def _dropped(item: Any) -> bool:
    return item is None or (isinstance(item, str) and is_local(item))
