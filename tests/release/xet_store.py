"""Finds what hf-xet 1.8 stored in a local folder: sha256 of a file to its xet hash (hub-facts.md, section 3).

The format of the shard files is hf-xet's own; if a newer version changes it, only the smoke test notices.
"""

import struct
from pathlib import Path

_HEADER, _ENTRY = 48, 48


def xet_hashes(folder):
    """sha256 (hex) to xet hash (hex) of every file in the local store at ``folder``."""
    found = {}
    for path in Path(folder).glob("xet/xorbs/shards/*.mdb"):
        content, at = path.read_bytes(), _HEADER
        while at + _ENTRY <= len(content):
            head = content[at : at + _ENTRY]
            if head[:32] == b"\xff" * 32:
                break
            flags, segments = struct.unpack_from("<II", head, 32)
            at += _ENTRY * (1 + segments * (2 if flags & 1 << 31 else 1))
            if flags & 1 << 30:
                found[_hash(content[at : at + 32])] = _hash(head[:32])
                at += _ENTRY
    return found


def _hash(raw):
    return "".join(f"{part:016x}" for part in struct.unpack("<4Q", raw))
