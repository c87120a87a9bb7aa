"""An arm is trained piece by piece: each stops by itself when its minutes are over, saves, and is noted.

What was trained is read from the checkpoint, never from what was planned: a piece that was killed has no note, and what
it did behind its last checkpoint is lost and trained again.
"""

import json
import os
import signal
import threading
import time
from importlib.metadata import version
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from gpu_arms import GpuArm

PACKAGES = ("torch", "lightning", "transformers")
CHECKED = 0.05  # seconds


class StopAfter:
    """Asks a training in this process to stop after some seconds, through ``Preemption``: behind its step, and saved.

    Where the time is over before training has begun, it is asked as soon as it has: each piece does one step at least.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._over = threading.Event()
        self._before: Any = None
        self._listener: type = object
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def _wait(self) -> None:
        if self._over.wait(self.seconds):
            return
        while not self._over.wait(CHECKED):
            heard = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
            if isinstance(heard, self._listener):  # it is from the first step on; before, nobody would stop
                os.kill(os.getpid(), signal.SIGTERM)
                return

    def __enter__(self) -> "StopAfter":
        from lit_long.callbacks.preemption import Preemption

        self._listener = Preemption
        self._before = signal.signal(signal.SIGTERM, _unheard)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        signal.signal(signal.SIGTERM, self._before)


def _unheard(number: int, frame: FrameType | None) -> None:
    """Training is over already."""


def newest(arm: GpuArm) -> tuple[Path | None, int]:
    """The newest complete checkpoint of an arm, and its optimizer steps."""
    from lit_long.model.inference import read_checkpoint
    from lit_long.parallel.newest import newest_checkpoint

    path = newest_checkpoint(arm.arm.folder / "checkpoints")
    return (None, 0) if path is None else (path, int(read_checkpoint(path)["global_step"]))


def device() -> str:
    """What this runs on."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def versions() -> dict[str, str]:
    """Of lit-long and what it stands on."""
    import lit_long

    return {"lit-long": lit_long.__version__, **{name: version(name) for name in PACKAGES}}


def train_piece(arm: GpuArm, seconds: float, command: str) -> bool:
    """Train on until some seconds from now, start-up included, and note it; returns whether the arm is finished.

    Raises:
        UserError: the arm was begun with other tokens or lengths, or training stopped at a mistake.
    """
    from lit_long.cli.fit import TRY_AGAIN
    from lit_long.entry import main
    from lit_long.errors import UserError

    _keep_plan(arm)
    began, (_, before) = time.monotonic(), newest(arm)
    if before >= arm.steps:
        return True
    with StopAfter(seconds):
        code = main(arm.arm.arguments)
    if code not in (0, TRY_AGAIN):
        raise UserError(f"{arm.name}: lit-long fit ended with exit code {code}; its message is above")
    _, after = newest(arm)
    row = metrics(arm)[-1]
    piece = {
        "command": command,
        "device": device(),
        "versions": versions(),
        "first_step": before,
        "last_step": after,
        "tokens": (after - before) * arm.tokens_per_step,
        "seconds": round(time.monotonic() - began, 1),
        "tokens_per_second": round(row["tokens_per_second"]),
        "mfu": row.get("mfu"),
        "peak_memory_gib": round(row["peak_memory_gib"], 2),
    }
    with (arm.arm.folder / "pieces.jsonl").open("a") as file:
        file.write(json.dumps(piece) + "\n")
    left = (arm.steps - after) * arm.tokens_per_step / max(row["tokens_per_second"], 1)
    print(
        f"{arm.name}: {after:,} of {arm.steps:,} steps, {after * arm.tokens_per_step:,} tokens; "
        f"{row['tokens_per_second']:,.0f} tokens/s, so about {left / 60:.1f} minutes more",
        flush=True,
    )
    return after >= arm.steps


def _keep_plan(arm: GpuArm) -> None:
    """The schedule of the learning rate is one over all pieces, so they must be pieces of one plan."""
    from lit_long.errors import UserError

    file = arm.arm.folder / "plan.json"
    plan = {"tokens": arm.steps * arm.tokens_per_step, "tiny": arm.tiny}
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(plan))
    elif (begun := json.loads(file.read_text())) != plan:
        raise UserError(
            f"{arm.name} was begun with {begun}, and this piece is of {plan}; give it the same --tokens and --tiny, or "
            f"delete {arm.arm.folder.name} to begin anew"
        )


def metrics(arm: GpuArm) -> list[dict[str, Any]]:
    """A row a step that was trained."""
    file = arm.arm.folder / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if "tokens_per_second" in row]


def pieces(arm: GpuArm) -> list[dict[str, Any]]:
    """The notes of all pieces so far."""
    file = arm.arm.folder / "pieces.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def measured_steps(arm: GpuArm) -> int:
    """Optimizer steps of the checkpoint that was measured last; 0 if none was."""
    file = arm.arm.folder / "measured.json"
    return int(json.loads(file.read_text())["steps"]) if file.exists() else 0
