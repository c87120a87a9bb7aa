"""The grid: task x length x depth, many probes a cell, decided in one forward pass each.

Greedy decoding gives exactly the answer if and only if every token of it is the most likely one given the answer's
tokens before it. So one forward over text, question and answer decides what a text-by-text comparison with ``generate``
would, without decoding; only the answer's logits are computed. Beside it stand the loss of the answer, which moves long
before the first exact hit, and the same with nothing hidden: what the loss gains by the needle, and what is guessed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lit_long.errors import UserError
from lit_long.evaluation.live import Ranks, score_tokens
from lit_long.evaluation.raw_store import key_of
from lit_long.evaluation.reach import check_learned_positions
from lit_long.evaluation.retrieval import first_sentence, shared
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.evaluation.retrieval.probe import Probe, make_probe
from lit_long.evaluation.retrieval.tasks import TASKS
from lit_long.evaluation.rows import RowFile

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_FORMAT = 1  # of the rows: part of their key


@dataclass(frozen=True, kw_only=True)
class GridSpec:
    """What to ask.

    Attributes:
        tasks: names of :data:`lit_long.evaluation.retrieval.tasks.TASKS`, ``needles`` (one at every depth of one text,
            which is read once) and ``first_sentence``.
        lengths: tokens of a prompt with its answer.
        depths: where the (first) needle stands.
        samples: probes of each cell.
        seed: of all probes.
        first: token that every prompt begins with (BOS).
        control: also measure each probe with nothing hidden.
    """

    tasks: tuple[str, ...] = ("needle",)
    lengths: tuple[int, ...] = (1024, 2048, 4096)
    depths: tuple[float, ...] = DEPTHS
    samples: int = 4
    seed: int = 0
    first: int | None = None
    control: bool = True

    def __post_init__(self) -> None:
        known = (*TASKS, shared.NAME, first_sentence.NAME)
        if unknown := [task for task in self.tasks if task not in known]:
            raise UserError(f"no retrieval task {unknown[0]!r}; there are {', '.join(known)}")
        if not self.tasks or not self.lengths or not self.depths or self.samples < 1:
            raise UserError("a retrieval grid needs at least one task, length, depth and sample")
        if min(self.lengths) < 64 or not all(0 <= depth <= 1 for depth in self.depths):
            raise UserError(f"lengths are {list(self.lengths)}, at least 64; depths {list(self.depths)}, from 0 to 1")

    @property
    def tokens(self) -> int:
        """Input tokens of the whole grid, where a text with many needles is read once."""
        reads = [1 if task == shared.NAME else len(self.depths_of(task)) for task in self.tasks]
        cells = sum(reads) * self.samples
        return sum(self.lengths) * cells * (2 if self.control else 1)

    def depths_of(self, task: str) -> tuple[float, ...]:
        """Depths of a task: a first sentence has one place."""
        return (0.0,) if task == first_sentence.NAME else self.depths


def retrieval_grid(
    model: Any,
    haystack: Haystack,
    spec: GridSpec,
    *,
    rows_file: Path | None = None,
    model_key: str = "",
    ranks: Ranks | None = None,
    allow_beyond: bool = False,
    progress: Callable[[int], None] = lambda tokens: None,
) -> list[dict[str, Any]]:
    """Ask a model everything in the grid.

    Args:
        model: a transformers causal LM.
        haystack: the text to hide things in, tokenised with the model's tokenizer.
        spec: what to ask.
        rows_file: JSON lines that rows are written to as they are finished; those of an interrupted run are kept.
        model_key: what tells the model apart in that file.
        ranks: inside of a run, where this process stands.
        allow_beyond: also lengths beyond the model's ``max_position_embeddings``.
        progress: called with the number of input tokens just finished.

    Returns:
        A row a probe: ``task``, ``length``, ``depth`` (asked), ``place`` (got), ``sample``, ``exact``, ``nll`` (nats a
        token of the answer), ``token_accuracy``, ``tokens`` (of it); with control ``control_exact``,
        ``control_nll``; of first sentences outside of a run ``rouge_l``, ``given``, ``wanted``.

    Raises:
        UserError: a length beyond the model's window or its table of learned positions, a token that the model does
            not have, text too short for a length, or a loss that is not finite.
    """
    check_learned_positions(model, max(spec.lengths))
    _check_tokens(model, haystack, spec.first)
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window is not None and max(spec.lengths) > window and not allow_beyond:
        raise UserError(
            f"a prompt of {max(spec.lengths):,} tokens is beyond the model's window of {window:,}; ask for shorter "
            f"ones, for the model with a RoPE extension, or for the extrapolation itself (--allow-beyond)"
        )
    key = key_of([_FORMAT, model_key, spec.seed, spec.first, spec.control, _fingerprint(haystack)])
    if rows_file is None:
        return [row for part in _parts(spec) for row in _rows(part, model, haystack, spec, ranks, progress)]
    with RowFile(rows_file, {"key": key, "haystack": haystack.name}) as file:
        for part in _parts(spec):
            if all(_name(*cell) in file.rows for cell in part):
                progress(part[0][1] * (2 if spec.control else 1))
                continue
            for cell, row in zip(part, _rows(part, model, haystack, spec, ranks, progress), strict=True):
                if _name(*cell) not in file.rows:  # a run may be cut off between the rows of one text
                    file.add({"id": _name(*cell), **row})
        cells = [cell for part in _parts(spec) for cell in part]
        return [{k: v for k, v in file.rows[_name(*cell)].items() if k != "id"} for cell in cells]


def _check_tokens(model: Any, haystack: Haystack, first: int | None) -> None:
    size = model.config.get_text_config().vocab_size
    if first is not None and not 0 <= first < size:
        raise UserError(f"--first-token {first}: the model's tokens are 0 to {size - 1:,}")
    largest = max((int(document.max()) for document in haystack.documents if len(document)), default=0)
    if largest >= size:
        raise UserError(
            f"{haystack.name!r} holds token id {largest:,} and the model has {size:,} tokens: its tokenizer is another "
            f"one. Give the model's own with --tokenizer."
        )


Cell = tuple[str, int, float, int]


def _parts(spec: GridSpec) -> Iterator[list[Cell]]:
    """Cells that are measured together: all depths of a text with many needles, else one by one."""
    for task in spec.tasks:
        for length in sorted(spec.lengths):
            if task == shared.NAME:
                yield from ([(task, length, d, sample) for d in spec.depths] for sample in range(spec.samples))
            else:
                yield from ([(task, length, d, n)] for d in spec.depths_of(task) for n in range(spec.samples))


def _name(task: str, length: int, depth: float, sample: int) -> str:
    return f"{task}/{length}/{depth:g}/{sample}"


def _rows(
    part: list[Cell], model: Any, haystack: Haystack, spec: GridSpec, ranks: Ranks | None,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:  # fmt: skip
    if part[0][0] == shared.NAME:
        return _shared_rows(part, model, haystack, spec, ranks, progress)
    return [_row(*cell, model, haystack, spec, ranks, progress) for cell in part]


def _shared_rows(
    part: list[Cell], model: Any, haystack: Haystack, spec: GridSpec, ranks: Ranks | None,
    progress: Callable[[int], None],
) -> list[dict[str, Any]]:  # fmt: skip
    _, length, _, sample = part[0]
    made = shared.make_shared(
        haystack, length=length, depths=spec.depths, sample=sample, seed=spec.seed, first=spec.first
    )

    def read(text: Any) -> list[dict[str, Any]]:
        if ranks is None and shared.can_share(model):
            scores = shared.shared_scores(model, text, made.tails, made.answers)
        else:
            whole = [np.concatenate([text, tail]) for tail in made.tails]
            scores = [_one(model, ids, count, ranks) for ids, count in zip(whole, made.answers, strict=True)]
        progress(length)
        return [_plain(*score) for score in scores]

    rows = [
        {"task": task, "length": length, "depth": depth, "place": place, "sample": sample} | score
        for (task, _, depth, _), place, score in zip(part, made.depths, read(made.text), strict=True)
    ]
    if spec.control:
        for row, control in zip(rows, read(made.control), strict=True):
            row |= {"control_exact": control["exact"], "control_nll": control["nll"]}
    return rows


def _row(
    task: str, length: int, depth: float, sample: int, model: Any, haystack: Haystack, spec: GridSpec,
    ranks: Ranks | None, progress: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    probe = make_probe(haystack, task, length=length, depth=depth, sample=sample, seed=spec.seed, first=spec.first)
    row: dict[str, Any] = {"task": task, "length": length, "depth": depth, "place": probe.depth, "sample": sample}
    row |= _scored(model, probe, probe.ids, ranks)
    progress(length)
    if probe.wanted is not None and ranks is None:
        row |= first_sentence.copied(model, haystack.tokenizer, probe.ids[: -probe.answer], probe.wanted)
    if spec.control:
        control = _scored(model, probe, probe.control, ranks)
        row |= {"control_exact": control["exact"], "control_nll": control["nll"]}
        progress(length)
    return row


def _scored(model: Any, probe: Probe, ids: Any, ranks: Ranks | None) -> dict[str, Any]:
    return _plain(*_one(model, ids, probe.answer, ranks))


def _one(model: Any, ids: Any, answer: int, ranks: Ranks | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and hits [answer] of the last ``answer`` tokens of ``ids``, by one forward pass."""
    tokens = torch.from_numpy(ids)[None]
    wanted = torch.zeros(1, tokens.shape[1] - 1, dtype=torch.bool)
    wanted[0, -answer:] = True
    place = ranks or Ranks(device=next(model.parameters()).device, to_device=_mover(model))
    scores = score_tokens(model, tokens, ranks=place, wanted=wanted)
    return scores.nll[0, -answer:], scores.hit[0, -answer:]


def _plain(nll: torch.Tensor, hits: torch.Tensor) -> dict[str, Any]:
    return {
        "exact": bool(hits.all()),
        "token_accuracy": float(hits.float().mean()),
        "nll": float(nll.double().mean()),
        "tokens": len(nll),
    }


def _mover(model: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    device = next(model.parameters()).device
    return lambda batch: {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def _fingerprint(haystack: Haystack) -> str:
    import hashlib

    digest = hashlib.sha256()
    for document in haystack.documents:
        digest.update(document.astype("<i8").tobytes())
    return digest.hexdigest()
