"""Which backend a model's attention runs on: the one that was pinned, or the fastest that is right, measured once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

from lit_long.attention.backends import BACKENDS, AttentionBackend, AttentionCase
from lit_long.attention.backends.case import States
from lit_long.attention.boundaries import Boundaries
from lit_long.attention.exchange import Exchange
from lit_long.attention.probe import milliseconds, numerics
from lit_long.errors import UserError


@dataclass(frozen=True)
class Candidate:
    """What was found of a backend for a case: ``refused`` says why it is out; ``milliseconds`` forward and backward of
    one layer, where it was timed."""

    name: str
    refused: str | None
    milliseconds: float | None = None


@dataclass
class AttentionReport:
    """What a model's attention runs on, and why; ``print`` it.

    Attributes:
        asked: the backend that was asked for, or ``auto``.
        chosen: backend for each case that came up.
        candidates: what was found of the others, by case.
    """

    asked: str
    chosen: dict[AttentionCase, str] = field(default_factory=dict)
    candidates: dict[AttentionCase, list[Candidate]] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.chosen:
            return f"attention: {self.asked}, nothing run yet"
        lines = []
        for case, name in self.chosen.items():
            dtype, what = str(case.dtype).removeprefix("torch."), "packed" if case.packed else "one document a row"
            lines.append(f"attention ({what}, {dtype}, {case.device.type}): {name}")
            for found in self.candidates.get(case, []):
                timed = (
                    "" if found.milliseconds is None else f"{found.milliseconds:.2f} ms a layer, forward and backward"
                )
                lines.append(f"  {found.name}: {found.refused or timed or 'agrees with float64'}")
        return "\n".join(lines)


class Selection:
    """The choice of one model; its attention layers share it.

    Args:
        backend: a name in ``BACKENDS``, or ``auto``.

    Raises:
        UserError: no such backend, or it is not on this machine.
    """

    def __init__(self, backend: str = "auto") -> None:
        if backend != "auto" and backend not in BACKENDS:
            raise UserError(f"attention backend {backend!r}: there is none; give one of {['auto', *BACKENDS]}")
        if backend != "auto" and (why := BACKENDS[backend].missing()) is not None:
            raise UserError(f"attention backend {backend!r}: {why}; install it, or give backend: auto")
        self.report = AttentionReport(backend)
        self.exchange: Exchange | None = None

    def backend_for(
        self,
        states: States,
        bounds: Boundaries,
        scale: float | None,
        dropout: float,
    ) -> AttentionBackend:
        """The backend for these [B, T, heads, dim] tensors.

        Raises:
            UserError: the pinned one cannot do it, or is wrong; or none can.
        """
        query, key, value = states
        case = AttentionCase(
            device=query.device,
            dtype=query.dtype,
            heads=query.shape[2],
            kv_heads=key.shape[2],
            head_dim=query.shape[3],
            value_dim=value.shape[3],
            packed=not bounds.one_per_row,
            dropout=dropout > 0,
        )
        if case not in self.report.chosen:
            # in a thread of its own: the probe must not go through this one's autocast, inference mode, or the hooks of
            # activation checkpointing, which counts what is saved
            with ThreadPoolExecutor(1) as alone:
                choice = alone.submit(self._choose, case, (query.detach(), key.detach(), value.detach()), bounds, scale)
                self.report.chosen[case] = choice.result()
        return BACKENDS[self.report.chosen[case]]

    def _choose(self, case: AttentionCase, states: States, bounds: Boundaries, scale: float | None) -> str:
        if case.device.type == "cuda":
            torch.cuda.set_device(case.device)
        asked = self.report.asked
        if asked != "auto":
            if (why := BACKENDS[asked].why_not(case) or numerics(BACKENDS[asked], case)) is not None:
                raise UserError(f"attention backend {asked!r} cannot be used here: {why}; give backend: auto")
            return asked
        found = []
        for backend in BACKENDS.values():
            why = backend.why_not(case) or numerics(backend, case)
            taken = None
            if why is None and case.device.type != "cpu":  # on a CPU there is never another to compare with
                why, taken = _timed(backend, states, bounds, scale)
            found.append(Candidate(backend.name, why, taken))
        self.report.candidates[case] = found
        able = [candidate for candidate in found if candidate.refused is None]
        if not able:
            reasons = "; ".join(f"{candidate.name}: {candidate.refused}" for candidate in found)
            raise UserError(f"no attention kernel whose memory grows with the length can be used here. {reasons}")
        return min(able, key=lambda candidate: candidate.milliseconds or 0.0).name


def _timed(
    backend: AttentionBackend, states: States, bounds: Boundaries, scale: float | None
) -> tuple[str | None, float | None]:
    """Why it is out, and its milliseconds: right on a probe's few tokens, a kernel may still fail on the real ones."""
    try:
        return None, milliseconds(backend, states, bounds, scale)
    except RuntimeError as error:  # out of memory is one, too
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return f"it fails on this batch: {reason}", None
