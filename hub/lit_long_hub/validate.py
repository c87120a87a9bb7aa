"""Checks a release folder before it is published: whole, proved, readable by every reader, nothing private in it."""

import json
import re
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long_hub.adapter import ADAPTER_CONFIG_NAME
from lit_long_hub.adapter_checks import adapter_problems
from lit_long_hub.front_matter import front_matter_problems
from lit_long_hub.legacy_rope import legacy_rope
from lit_long_hub.licence import front_matter
from lit_long_hub.proof import VERIFICATION_NAME
from lit_long_hub.proof_kinds import LOGITS, WEIGHTS
from lit_long_hub.safe_files import is_safe_type
from lit_long_hub.weights import INDEX_NAME, SINGLE_NAME

_PLACEHOLDERS = ("[more information needed]", "todo:", "tbd", "<placeholder>", "lorem ipsum")
_LOCAL_PATH = re.compile(
    r"(?<![\w.:/])(/(home|[Uu]sers|root|tmp|mnt|data|scratch|workspace|work|var|opt|srv|nfs|fsx|lustre|gpfs|shared|projects?|Volumes)/[\w.-]+|[A-Z]:\\\\?[A-Za-z])"
)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
_OWN_CODE = re.compile(r"(configuration|modeling)_\w+\.py")
_TEXT = (".json", ".md", ".txt", ".yaml", ".yml", ".jinja", ".py")
_V5_TOKENIZERS = ("TokenizersBackend", "SentencePieceBackend", "PythonBackend")
_NEED_ORIGINAL = ("yarn", "llama3", "longrope")


@dataclass(frozen=True)
class Release:
    """A folder that passed every check."""

    folder: Path
    files: list[str]
    """Relative paths of everything in it, hidden files left out."""

    sha256: dict[str, str]
    """Of each file that the proof was made of."""

    head: dict[str, Any]
    """The card's front matter."""

    config: dict[str, Any]
    """The content of config.json."""

    proof: str
    """Kind of its proof: ``logits``, or ``weights`` where it was converted while it was published."""


def validate_release(folder: str | Path, *, to_come: Mapping[str, Collection[str]] | None = None) -> Release:
    """Check a folder that ``lit-long export`` wrote.

    Args:
        folder: The release.
        to_come: For a release that is converted while it is published: name of each weight file to the tensors that it
            will hold. Neither the files nor their proof are looked for.

    Returns:
        What it holds.

    Raises:
        UserError: With every problem found, one on a line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Give one that `lit-long export` wrote.")
    if not (folder / "config.json").is_file():
        refused = (folder / "config.json.refused").is_file()
        raise UserError(
            f"{folder} "
            + ("was refused by its proof" if refused else "has no config.json, so it is no release")
            + ". Export again with `lit-long export CHECKPOINT --output DIR`."
        )
    problems: list[str] = []
    files = sorted(
        str(path.relative_to(folder).as_posix())
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    config = _json(folder / "config.json", problems) or {}
    verification = (_json(folder / VERIFICATION_NAME, problems) or {}) if to_come is None else {}
    head: dict[str, Any] = {}
    if (folder / "README.md").is_file():
        head = front_matter((folder / "README.md").read_text(errors="replace"))
        problems += [f"README.md: {problem}" for problem in front_matter_problems(head)]
        problems += [] if head else ["README.md: it has no front matter"]
    else:
        problems.append("README.md is missing")
    problems += _proof_problems(verification, folder) if to_come is None else []
    problems += _position_problems(config)
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        problems += adapter_problems(folder, head, _shard_problems)
    else:
        problems += _weight_problems(folder, to_come)
    problems += _tokenizer_problems(folder, config)
    problems += _content_problems(folder, files, config)
    if problems:
        raise UserError(f"{folder} cannot be published:\n" + "\n".join(f"  - {problem}" for problem in problems))
    proved = {name: str(entry["sha256"]) for name, entry in verification.get("files", {}).items()}
    return Release(folder, files, proved, head, config, str(verification.get("kind", LOGITS)))


def _json(path: Path, problems: list[str]) -> Any:
    if not path.is_file():
        problems.append(f"{path.name} is missing")
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        problems.append(f"{path.name} is no JSON ({error})")
        return None


def _proof_problems(verification: dict[str, Any], folder: Path) -> list[str]:
    if not verification:
        return ["it has no proof: verification.json holds nothing. Export again, without leaving the proof out"]
    if (kind := verification.get("kind", LOGITS)) not in (LOGITS, WEIGHTS):
        return [f"verification.json is of a kind of proof that is not known here: {kind!r}"]
    if verification.get("passed") is not True:
        return ["verification.json says that it is not the model that was trained"]
    files = verification.get("files")
    if not isinstance(files, dict) or not files:
        return ["verification.json does not say which files it was made of (an older export). Export again"]
    return [f"{name}, which was proved, is missing" for name in files if not (folder / name).is_file()]


def _position_problems(config: dict[str, Any]) -> list[str]:
    rope, length = config.get("rope_parameters"), config.get("max_position_embeddings")
    if not isinstance(length, int) or length < 1:
        return [f"config.json: max_position_embeddings is {length!r}"]
    if not isinstance(rope, dict):
        return ["config.json: rope_parameters are missing, transformers 5 would take the base's"]
    problems = []
    kind = rope.get("rope_type", "default")
    if not rope.get("rope_theta"):
        problems.append("config.json: rope_parameters lack rope_theta, readers would take 10,000")
    if kind in _NEED_ORIGINAL and not rope.get("original_max_position_embeddings"):
        problems.append(f"config.json: {kind} needs original_max_position_embeddings, readers would take {length}")
    if kind == "yarn" and not problems:
        implied = rope.get("factor", 0) * rope["original_max_position_embeddings"]
        if implied != length:
            problems.append(f"config.json: yarn implies a context of {implied:g}, max_position_embeddings is {length}")
    if kind == "xpos" or problems:
        return problems
    try:
        old = legacy_rope(config)
        renamed = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling")}
        scaling = {key: value for key, value in rope.items() if key != "rope_theta"}
        new = legacy_rope(
            renamed | {"rope_theta": rope["rope_theta"], "rope_scaling": scaling if kind != "default" else None}
        )
    except (KeyError, ValueError) as error:
        return [f"config.json: older readers cannot read its positions ({error})"]
    if old[0].shape != new[0].shape or not bool(((old[0] - new[0]).abs() <= 1e-9 * new[0]).all()) or old[1] != new[1]:
        problems.append(
            "config.json: rope_theta and rope_scaling (transformers 4) say other positions than rope_parameters"
        )
    return problems


def _weight_problems(folder: Path, to_come: Mapping[str, Collection[str]] | None) -> list[str]:
    index_path = folder / INDEX_NAME
    problems: list[str] = []
    expected: dict[str, set[str] | None] = {SINGLE_NAME: None}
    if index_path.is_file():
        index = _json(index_path, problems)
        if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
            return [*problems, f"{INDEX_NAME} has no weight_map"]
        expected = {}
        for tensor, name in index["weight_map"].items():
            names = expected.setdefault(str(name), set())
            assert names is not None
            names.add(tensor)
    if to_come is not None:
        agree = expected.keys() == to_come.keys() and all(
            tensors in (None, set(to_come[name])) for name, tensors in expected.items()
        )
        return problems if agree else [*problems, f"{INDEX_NAME} and the files to come do not agree"]
    for name, tensors in expected.items():
        problems += _shard_problems(folder / name, tensors)
    strays = sorted(path.name for path in folder.glob("*.safetensors") if path.name not in expected)
    problems += [f"{name} belongs to no index: a file of another release" for name in strays]
    return problems


def _shard_problems(path: Path, tensors: set[str] | None) -> list[str]:
    if not path.is_file():
        return [f"{path.name} is missing"]
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("its header is too long")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{path.name} is no safetensors file ({error})"]
    if end != path.stat().st_size:
        return [f"{path.name} has {path.stat().st_size:,} bytes, its header says {end:,}: it was cut off"]
    if tensors is not None and tensors != header.keys():
        odd = sorted(tensors ^ header.keys())
        return [f"{path.name} and {INDEX_NAME} do not agree about {', '.join(odd[:3])}"]
    return []


def _tokenizer_problems(folder: Path, config: dict[str, Any]) -> list[str]:
    path = folder / "tokenizer_config.json"
    problems: list[str] = []
    content = _json(path, problems)
    if not isinstance(content, dict):
        return problems
    if content.get("tokenizer_class") in _V5_TOKENIZERS:
        problems.append(f"{path.name}: tokenizer_class {content['tokenizer_class']} does not load in transformers 4")
    if content.get("model_max_length") != config.get("max_position_embeddings"):
        problems.append(
            f"{path.name}: model_max_length is {content.get('model_max_length')}, the context is "
            f"{config.get('max_position_embeddings')}"
        )
    return problems


def _content_problems(folder: Path, files: list[str], config: dict[str, Any]) -> list[str]:
    problems = []
    for name in files:
        path = folder / name
        own_code = bool(config.get("auto_map")) and _OWN_CODE.fullmatch(name) is not None
        if not is_safe_type(name) and not own_code:
            problems.append(f"{name}: files of this kind can run code in a reader; remove it")
        if path.suffix not in _TEXT or path.stat().st_size > 20_000_000:
            continue
        text = path.read_text(errors="replace")
        if _TOKEN.search(text):
            problems.append(f"{name}: it holds an access token of the Hub; remove it and revoke the token")
        # A tokenizer's vocabulary may hold any string, paths among them.
        if not name.startswith(("tokenizer", "vocab", "merges", "added_tokens")) and (
            found := _LOCAL_PATH.search(text)
        ):
            problems.append(f"{name}: it names a place on a machine ({found[0]})")
        if path.suffix == ".md":
            lowered = text.lower()
            problems += [f"{name}: it has the placeholder {word!r}" for word in _PLACEHOLDERS if word in lowered]
    return problems
