"""Evaluate several models on the same windows: load, measure, keep the raw losses, compare.

All models are loaded once before anything is measured, so that a wrong path or another tokenizer stops the run in
seconds and not after the first model's hours. One model is in memory at a time.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lit_long.errors import UserError
from lit_long.evaluation.position_loss import PositionLoss, summarise
from lit_long.evaluation.raw_store import key_of, model_key, read_metadata, read_tensors, save_raw
from lit_long.evaluation.reach import check_learned_positions, check_reach, window_of
from lit_long.evaluation.token_nll import check_vocabulary, position_nll
from lit_long.evaluation.truncation import ContextGain, ContextPlan, plan_contexts, summarise_contexts, target_nll
from lit_long.evaluation.windows import Windows

# Part of every key: raise it when the meaning of the stored losses changes.
_RAW_FORMAT = 1


class Loaded(Protocol):
    """What is needed of :class:`lit_long.model.LoadedModel`."""

    @property
    def model(self) -> Any:
        """Hugging Face causal language model in eval mode."""

    @property
    def native_length(self) -> int | None:
        """Context length before any extension, if known."""

    @property
    def source(self) -> dict[str, Any]:
        """Where the model comes from, in plain values."""


class Progress(Protocol):
    """Hears how far an evaluation is."""

    def start(self, name: str, tokens: int) -> None:
        """Measuring model ``name`` begins and will read ``tokens`` input tokens."""

    def advance(self, tokens: int) -> None:
        """``tokens`` more input tokens are done."""

    def note(self, message: str) -> None:
        """Something the user should read."""


@dataclass(frozen=True)
class NamedModel:
    """A model to evaluate: the name in tables and files, and a Hugging Face folder, Hub id or checkpoint."""

    name: str
    path: str


@dataclass(frozen=True, eq=False, kw_only=True)
class ModelResult:
    """Everything measured on one model."""

    name: str
    path: str
    source: dict[str, Any]
    own_native_length: int | None
    """What the model itself says its native length is."""
    position: PositionLoss
    context: ContextGain | None
    window: int | None = None
    """The context length that it was made for (``max_position_embeddings``): beyond it, it extrapolates."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Results of several models on the same windows."""

    windows: Windows
    native_length: int
    models: tuple[ModelResult, ...]
    corpus: dict[str, Any]
    """Plain description of the corpus for the report."""


def evaluate_models(
    models: Sequence[NamedModel],
    windows: Windows,
    *,
    load: Callable[[str], Loaded],
    raw_folder: Path,
    progress: Progress,
    native_length: int | None = None,
    context_control: bool = True,
    batch_size: int | None = None,
    device: str = "cpu",
    corpus: dict[str, Any] | None = None,
    allow_beyond: bool = False,
) -> Evaluation:
    """Measure loss by position, and the truncated-context control, of every model on the same windows.

    Args:
        models: Models with different names; the first is the reference in tables.
        windows: From :func:`lit_long.evaluation.take_windows`.
        load: Usually ``lit_long.model.load_for_inference``.
        raw_folder: Raw losses go to ``<name>.safetensors`` here and are reused where their key still matches.
        progress: Hears about models, tokens and reuse.
        native_length: Context length of the original model; by default the smallest that any model reports.
        context_control: Whether to measure the truncated contexts as well.
        batch_size: Windows per forward; by default as many as make 16,384 tokens.
        device: Torch device.
        corpus: Description of the corpus to carry into the report.
        allow_beyond: Whether windows may be longer than every model's own (``max_position_embeddings``).

    Raises:
        UserError: The native length is unknown, no model reaches as far as the windows, a model has another tokenizer
            or cannot be measured in slices, or a loss is NaN or infinite.
    """
    run = _Run(windows, load=load, raw_folder=raw_folder, progress=progress, batch_size=batch_size, device=device)
    inspected = [run.inspect(model) for model in models]
    reach = [(found.model.name, found.window) for found in inspected]
    for note in check_reach(reach, windows.length, allow_beyond=allow_beyond):
        progress.note(note)
    natives = [found.native_length for found in inspected if found.native_length is not None]
    native = native_length or min(natives, default=None)
    if native is None:
        raise UserError(
            f"None of {', '.join(model.path for model in models)} says what its native context length is. "
            "Give it with --native, in tokens."
        )
    plan = plan_contexts(windows, native) if context_control else None
    results = []
    for found in inspected:
        raw = run.measure(found, plan)
        results.append(
            ModelResult(
                name=found.model.name,
                path=found.model.path,
                source=found.source,
                own_native_length=found.native_length,
                window=found.window,
                position=summarise(raw["nll"], windows, native),
                context=None if plan is None else summarise_contexts(raw, windows, plan),
            )
        )
    return Evaluation(windows=windows, native_length=native, models=tuple(results), corpus=corpus or {})


@dataclass(frozen=True)
class _Inspected:
    """What is known of a model before it is measured."""

    model: NamedModel
    native_length: int | None
    window: int | None
    source: dict[str, Any]
    key: str


class _Run:
    """One evaluation under way: inspects and measures models, holding on to the last one loaded."""

    def __init__(
        self,
        windows: Windows,
        *,
        load: Callable[[str], Loaded],
        raw_folder: Path,
        progress: Progress,
        batch_size: int | None,
        device: str,
    ) -> None:
        self._windows, self._raw_folder, self._progress = windows, raw_folder, progress
        self._load, self._batch_size, self._device = load, batch_size, torch.device(device)
        self._loaded: tuple[str, Loaded] | None = None

    def inspect(self, model: NamedModel) -> _Inspected:
        """Look at a model before anything is measured; where its raw file is of the same model, without loading it."""
        stored = read_metadata(self._raw_file(model))
        if stored.get("model_key") == model_key(model.path):
            own, source = json.loads(stored["native_length"]), json.loads(stored["source"])
            window = json.loads(stored.get("window", "null"))
            return _Inspected(model, own, window, source, stored["model_key"])
        loaded = self._load_model(model)
        with _naming(model):
            check_vocabulary(loaded.model, self._windows.ids)
            check_learned_positions(loaded.model, self._windows.length)
        source = json.loads(json.dumps(loaded.source, default=str))
        # The key comes after loading, because a Hub id has its files only then.
        return _Inspected(model, loaded.native_length, window_of(loaded.model), source, model_key(model.path))

    def measure(self, inspected: _Inspected, plan: ContextPlan | None) -> dict[str, Tensor]:
        """The raw losses of a model: from its file where the keys match, else measured and stored."""
        model, windows = inspected.model, self._windows
        file = self._raw_file(model)
        stored = read_metadata(file)
        key = key_of([_RAW_FORMAT, inspected.key, windows.fingerprint])
        plan_key = key_of([plan.target_tokens, plan.contexts, plan.kept]) if plan else ""
        same_windows = stored.get("key") == key
        if same_windows and plan_key in ("", stored.get("plan_key")):
            self._progress.note(f"{model.name}: nothing changed, raw losses read from {file}")
            return read_tensors(file)

        N, S = windows.ids.shape[0], windows.length
        raw = {"nll": read_tensors(file)["nll"]} if same_windows else {}
        self._progress.start(model.name, N * ((0 if raw else S) + (plan.extra_tokens if plan else 0)))
        loaded = self._load_model(model)

        def nll(ids: Tensor) -> Tensor:
            return position_nll(loaded.model, ids, batch_size=self._batch_size, progress=self._progress.advance)

        metadata = {
            "key": key,
            "model_key": inspected.key,
            "native_length": json.dumps(inspected.native_length),
            "window": json.dumps(inspected.window),
            "source": json.dumps(inspected.source),
        }
        with _naming(model):
            if not raw:
                raw = {"nll": nll(windows.ids)}
                save_raw(file, raw, metadata)
            if plan is not None:
                raw |= target_nll(nll, windows, plan, raw["nll"])
                save_raw(file, raw, metadata | {"plan_key": plan_key})
        return raw

    def _load_model(self, model: NamedModel) -> Loaded:
        if self._loaded is None or self._loaded[0] != model.path:
            self._loaded = None  # frees the memory before the next model comes
            loaded = self._load(model.path)
            loaded.model.to(self._device)
            self._loaded = (model.path, loaded)
        return self._loaded[1]

    def _raw_file(self, model: NamedModel) -> Path:
        return self._raw_folder / f"{model.name}.safetensors"


@contextmanager
def _naming(model: NamedModel) -> Iterator[None]:
    """Say which model it was that a user's mistake was found in."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{model.name} ({model.path}): {error}") from error
