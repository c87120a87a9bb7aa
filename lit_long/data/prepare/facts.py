"""What a corpus is made of, as plain values: settings, inputs, tokenizer. The same facts, the same corpus."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lit_long.data.prepare.config import PrepareConfig
from lit_long.data.sources import describe_inputs

# these decide where and how the work is done, not what comes out
_NOT_SETTINGS = ("output", "sources", "processes", "max_bad_rows", "item_bytes")
_LEAST_ITEM, _LARGEST_ITEM, _ITEMS = 1 << 20, 128 << 20, 256
_RAW = (".txt", ".md", ".jsonl")


@dataclass(frozen=True)
class Facts:
    """Settings, inputs and the tokenizer's files, as JSON would give them back."""

    settings: dict[str, Any]
    inputs: list[dict[str, Any]]
    tokenizer: dict[str, str]

    @property
    def key(self) -> str:
        """SHA-256 (hex) of all."""
        return hashed(asdict(self))

    @property
    def input_bytes(self) -> int:
        """Size of the input files, as they are."""
        return sum(int(size) for entry in self.inputs for _, size, *_ in entry.get("files", ()))

    @property
    def raw_bytes(self) -> int | None:
        """The same as raw text; None where a file would have to be decompressed, or a stream read, to know."""
        raw = all(
            "files" in entry and all(str(name).endswith(_RAW) for name, *_ in entry["files"]) for entry in self.inputs
        )
        return self.input_bytes if raw else None

    def item_bytes(self, config: PrepareConfig) -> int:
        """Raw text of an item of work: a 256th of the inputs, so that many cores have work, within 1 to 128 MiB.

        It follows from the inputs, never from the number of processes, so that neither does the corpus.
        """
        if config.item_bytes is not None:
            return config.item_bytes
        if any(source.hub is not None for source in config.sources):
            return _LARGEST_ITEM // 2
        return min(max(self.input_bytes // _ITEMS, _LEAST_ITEM), _LARGEST_ITEM)


def facts_of(config: PrepareConfig) -> Facts:
    """Look at the sources and the tokenizer's files; reads no text.

    Raises:
        UserError: a source that is not there or cannot be read.
    """
    settings = {key: value for key, value in asdict(config).items() if key not in _NOT_SETTINGS}
    if not config.held_out_share:  # corpora from before there was one are not made again
        del settings["held_out_share"]
    tokenizer = Path(config.tokenizer)
    files = [tokenizer] if tokenizer.is_file() else sorted(tokenizer.glob("tokenizer*.json"))
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return Facts(*json.loads(json.dumps([settings, describe_inputs(config.sources), hashes])))


def hashed(value: Any) -> str:
    """SHA-256 (hex) of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is not the same in two sets of facts (of :meth:`Work.facts`), in words, at most a handful."""
    found = [
        f"{key} was {_short(before['settings'].get(key))}, is {_short(now['settings'].get(key))}"
        for key in sorted(before["settings"].keys() | now["settings"].keys())
        if before["settings"].get(key) != now["settings"].get(key)
    ]
    if len(before["inputs"]) != len(now["inputs"]):
        found.append(f"there were {len(before['inputs'])} sources, there are {len(now['inputs'])}")
    else:
        for old, new in zip(before["inputs"], now["inputs"], strict=True):
            found += _source_differences(old, new)
    others = sorted((before.keys() | now.keys()) - {"settings", "inputs"})
    found += [
        f"{key.replace('_', ' ')} was {_short(before.get(key))}, is {_short(now.get(key))}"
        for key in others
        if before.get(key) != now.get(key)
    ]
    return found if len(found) <= 6 else [*found[:5], f"{len(found) - 5} more"]


def _source_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    name = now.get("settings", {}).get("name")
    old, new = before.get("settings", {}), now.get("settings", {})
    found = [
        f"source {name!r}: {key} was {_short(old.get(key))}, is {_short(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    files, current = ({entry[0]: entry[1:] for entry in side.get("files", ())} for side in (before, now))
    for what, names in (
        ("gone", files.keys() - current.keys()),
        ("new", current.keys() - files.keys()),
        ("changed", {file for file in files.keys() & current.keys() if files[file] != current[file]}),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            found.append(f"source {name!r}: {min(names)}{more} {what}")
    if not found and before != now:
        found.append(f"source {name!r} changed")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
