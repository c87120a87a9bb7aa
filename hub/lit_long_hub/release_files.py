"""Hashes of a release's files, which tie its proof to its bytes."""

from pathlib import Path

from lit_long_hub.remote.tree import content_hashes


def hashes_of(folder: Path, names: list[str]) -> dict[str, dict[str, int | str]]:
    """Size in bytes and sha256 of files.

    Args:
        folder: Where they are.
        names: Their paths within it.
    """
    result: dict[str, dict[str, int | str]] = {}
    for name in sorted(names):
        size, sha256, _ = content_hashes(folder / name)
        result[name] = {"size": size, "sha256": sha256}
    return result
