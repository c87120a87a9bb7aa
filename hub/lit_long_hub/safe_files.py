"""Which files a release may hold: nothing that a reader would run or unpickle, no name that leaves its folder."""

import re
from fnmatch import fnmatch
from pathlib import PurePosixPath

SAFE = (
    "*.safetensors", "*.json", "*.jsonl", "*.md", "*.txt", "*.yaml", "*.yml", "*.jinja", "*.png", "*.jpg", "*.svg",
    "*.model", "*.tiktoken", "*.parquet", "*.arrow", "*.jsonl.zst", "*.npy", "*.csv",
    "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*", ".gitattributes",
)  # fmt: skip
"""File names that are fetched without being asked for. ``.model`` are sentencepiece's protobufs; ``.npy`` is read
without pickle."""

EXECUTED = ("*.py", "*.pkl", "*.pickle", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.so", "*.sh",
            "*.exe", "*.dll", "*.joblib", "*.zip", "*.tar", "*.gz", "*.7z")  # fmt: skip
"""File names that run or unpickle code in some reader, or hide what they hold."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def is_safe_type(path: str) -> bool:
    """Whether a file's name is of a kind that no reader runs."""
    name = PurePosixPath(path).name
    return any(fnmatch(name, pattern) for pattern in SAFE) and not any(fnmatch(name, p) for p in EXECUTED)


def path_problem(path: str) -> str | None:
    """Why a path from a repository must not be written to disk; None if it may.

    Args:
        path: As the Hub's listing has it, with ``/`` between its parts.
    """
    if not path or "\\" in path or "\0" in path or any(ord(letter) < 32 for letter in path):
        return "it holds characters that a file name must not"
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "it is an absolute path"
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "it leaves the folder"
    if parts[0] in (".cache", ".git") or parts[0].startswith(".lit-long"):
        return "it is inside a folder that tools use for themselves"
    if any(_RESERVED.fullmatch(part) or part.endswith((" ", ".")) for part in parts):
        return "it is a name that some systems treat specially"
    return None


def clashing(paths: list[str]) -> list[str]:
    """Paths that are one and the same file where upper and lower case do not count."""
    seen: dict[str, str] = {}
    found = []
    for path in sorted(paths):
        first = seen.setdefault(path.casefold(), path)
        if first != path:
            found.append(f"{first} and {path}")
    return found
