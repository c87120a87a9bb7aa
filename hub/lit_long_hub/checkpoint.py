"""Opens a lit-long checkpoint: its plain data is read, its tensors stay on disk until each is asked for.

``torch.load(weights_only=True, mmap=True)`` runs no code from the file, and touches no byte of the optimizer's state:
a 2.7 GB checkpoint costs about 40 MB of memory. The price is that a checkpoint with custom objects in it is refused.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lit_long.errors import UserError
from lit_long.model.inference import CHECKPOINT_FORMAT
from lit_long.model.shard_reader import ShardReader
from lit_long.model.sharded_checkpoint import META, is_sharded_checkpoint, weight_names
from lit_long_hub.plain_checkpoint import PlainModel, plain_record
from lit_long_hub.weights import ShardedWeights, StoredWeights, WeightSource

MODULE_PREFIX = "model."


@dataclass(frozen=True)
class Checkpoint:
    """What an export needs of a checkpoint."""

    path: Path
    """The file it was read from."""

    weights: WeightSource
    """The weights, read one at a time, without the Lightning module's ``model.`` prefix."""

    record: dict[str, Any]
    """The ``lit_long`` entry: config, rope, base_model, tokenizer, lora, training, versions."""

    global_step: int | None
    """Optimizer steps taken, None where the file does not say."""

    @property
    def context_length(self) -> int:
        """The length, in tokens, that the model was extended to."""
        return int(self.record["rope"]["context_length"])

    @property
    def native_length(self) -> int:
        """The base model's own length in tokens."""
        return int(self.record["rope"]["native_length"])

    def base_model(self, given: str | None) -> tuple[str | None, str | None]:
        """Folder or Hub id of the base model and its revision; what the user gives wins over what was recorded."""
        recorded = self.record.get("base_model") or None
        if given is None or given == recorded:
            return recorded, self.record.get("base_revision")
        return given, None

    def tokenizer(self, given: str | None) -> str:
        """Folder or Hub id of the tokenizer; what the user gives wins over what was recorded.

        Raises:
            UserError: Neither names one.
        """
        name = given or self.record.get("tokenizer")
        if not name:
            raise UserError(f"{self.path} names no tokenizer. Give its folder or Hub id with --tokenizer.")
        return str(name)


def read_checkpoint(path: str | Path, plain: PlainModel | None = None) -> Checkpoint:
    """Open a checkpoint written by ``lit-long fit``, a file or a sharded folder; no weight is read yet.

    Args:
        path: The ``.ckpt`` file or folder.
        plain: For a checkpoint of another LightningModule: where its config is, and which attribute the model.

    Raises:
        UserError: no such file, an unfinished folder, not a readable checkpoint, not one of lit-long.
    """
    path = Path(path)
    sharded = is_sharded_checkpoint(path)
    if path.is_dir() and not sharded:
        raise UserError(
            f"{path} is a folder, and no complete sharded checkpoint (its save was not finished, or it is something "
            "else). Give a checkpoint (*.ckpt) that `lit-long fit` wrote."
        )
    if not sharded and not path.is_file():
        raise UserError(f"No checkpoint at {path}. Give the .ckpt file that `lit-long fit` wrote.")
    content = _load(path / META if sharded else path)
    record = content.get("lit_long") if isinstance(content, dict) else None
    if plain is not None and record is None and isinstance(content, dict):
        record = plain_record(plain)
    if not isinstance(record, dict) or not (sharded or isinstance(content.get("state_dict"), dict)):
        raise UserError(
            f"{path} is not a lit-long checkpoint: it lacks "
            + ("the entry 'lit_long', which LongContextModule saves." if record is None else "a 'state_dict'.")
            + " Give a checkpoint from `lit-long fit`; for one of your own LightningModule say with --config-from "
            "where the config of its model is."
        )
    _check_record(path, record)
    step = content.get("global_step")
    prefix = f"{plain.attribute}." if plain is not None else MODULE_PREFIX
    weights = _sharded(path, prefix) if sharded else _weights(path, content["state_dict"], prefix)
    return Checkpoint(path, weights, record, step if isinstance(step, int) else None)


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors and plain data, or is no checkpoint, and is not loaded for safety: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise UserError(
            f"{path} cannot be read as a checkpoint ({(str(error) or type(error).__name__).splitlines()[0]}). "
            "It may be cut short or of another kind; try an older checkpoint of the run."
        ) from error


def _check_record(path: Path, record: dict[str, Any]) -> None:
    if record.get("format") != CHECKPOINT_FORMAT:
        raise UserError(
            f"{path} has checkpoint format {record.get('format')!r}; this version of lit-long reads format "
            f"{CHECKPOINT_FORMAT}. "
            f"Export it with the version that wrote it ({record.get('version', 'unknown')})."
        )
    config, rope = record.get("config"), record.get("rope")
    missing = []
    if not isinstance(config, dict) or not config.get("model_type"):
        missing.append("config.model_type")
    if not isinstance(rope, dict):
        missing.append("rope")
    else:
        missing += [f"rope.{key}" for key in ("method", "native_length", "context_length") if not rope.get(key)]
    if missing:
        raise UserError(f"{path} is an incomplete lit-long checkpoint: {', '.join(missing)} missing. Train it again.")


def _sharded(path: Path, prefix: str) -> WeightSource:
    reader = ShardReader(path)
    names = weight_names(path, reader)
    found = {name.removeprefix(prefix): names[name] for name in names if name.startswith(prefix)}
    if not found:
        raise _nothing_there(path, prefix, list(names))
    return ShardedWeights(reader, found)


def _weights(path: Path, state: dict[str, Any], prefix: str) -> WeightSource:
    weights = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix) and isinstance(value, torch.Tensor)
    }
    if not weights:
        raise _nothing_there(path, prefix, list(state))
    return StoredWeights(weights)


def _nothing_there(path: Path, prefix: str, names: list[str]) -> UserError:
    some = ", ".join(names[:3]) or "nothing"
    return UserError(
        f"{path} holds no weights under {prefix!r} (it holds {some}): it was not saved by LongContextModule. For "
        "your own module say with --module which of its attributes is the transformers model."
    )
