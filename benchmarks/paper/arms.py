"""Runs of a study: each is one ``lit-long fit`` in its own folder, skipped where done, resumed where not."""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Arm:
    """A training run: its folder, YAML files laid over each other, and what is set on top of them."""

    folder: Path
    configs: tuple[Path, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def checkpoint(self) -> str:
        """Where the trained model is."""
        return str(self.folder / "checkpoints" / "last.ckpt")

    @property
    def arguments(self) -> list[str]:
        """What ``lit-long`` is given to train this, or to go on in its last checkpoint."""
        configs = [part for path in self.configs for part in ("--config", str(path))]
        settings = [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in self.settings.items()
        ]
        logger = {"class_path": "lit_long.loggers.JSONLLogger", "init_args": {"save_dir": str(self.folder)}}
        return ["fit", *configs, *settings, f"--trainer.logger={json.dumps(logger)}", "--ckpt_path", "last"]

    def train(self) -> dict[str, Any]:
        """Train, or go on, or only read what an earlier run noted; returns its seconds and settings."""
        done = self.folder / "done.json"
        if done.exists():
            return dict(json.loads(done.read_text()))
        self.folder.mkdir(parents=True, exist_ok=True)
        print(f"training {self.folder.name}", flush=True)
        began = time.monotonic()
        with (self.folder / "log.txt").open("a") as log:
            subprocess.run(
                [sys.executable, "-m", "lit_long.entry", *self.arguments], cwd=ROOT, stdout=log, stderr=log, check=True
            )
        about = {
            "seconds": round(time.monotonic() - began, 1),
            "settings": {k: v for k, v in self.settings.items() if "corpus" not in k},
        }
        done.write_text(json.dumps(about))
        return about


def sources(work: Path) -> dict[str, Any]:
    """The setting that says where the studies' corpora are."""
    return {
        "data.init_args.mixture.sources": {name: {"corpus": str(work / name)} for name in ("books", "manuals", "code")}
    }


def release(checkpoint: str, output: Path) -> Path:
    """A Hugging Face folder of a checkpoint, for arms that start from it."""
    if not (output / "config.json").exists():
        command = ["export", checkpoint, "--output", str(output), "--license", "other"]
        subprocess.run(
            [sys.executable, "-m", "lit_long.entry", *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
    return output


def write_result(name: str, command: str, numbers: dict[str, Any]) -> None:
    """``benchmarks/results/NAME.json``, with what was run where; what somebody noted in it (``notes``) stays."""
    import torch

    file = RESULTS / f"{name}.json"
    notes = json.loads(file.read_text()).get("notes") if file.exists() else None
    about: dict[str, Any] = {
        "command": command,
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    if notes:
        about["notes"] = notes
    file.write_text(json.dumps(about | numbers, indent=1) + "\n")
    print(f"wrote {name}.json")
