"""Runs ``proof_reader`` on a folder in a new Python process, which has the folder, transformers and nothing else."""

import ctypes
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lit_long_hub import proof_reader


class DoesNotLoadError(RuntimeError):
    """The reader failed; the message is the last line that it wrote."""


def run_reader(
    folder: Path, prompts: list[dict[str, Any]] | None, texts: list[str], *, custom_code: bool, base: Path | None = None
) -> dict[str, Any]:
    """Run ``proof_reader`` on a folder in a new Python process.

    Args:
        folder: The release.
        prompts: See ``make_prompts``; None asks for the structure alone, without weights.
        texts: For the tokenizer.
        custom_code: Whether the release's own code may and must run.
        base: Of an adapter, the folder of its base model.

    Returns:
        Its answer: tensors and plain data.

    Raises:
        DoesNotLoadError: It ended with an error.
    """
    with TemporaryDirectory() as scratch:
        asked, result = Path(scratch, "request.json"), Path(scratch, "result.pt")
        request = {"prompts": prompts, "texts": texts, "custom_code": custom_code}
        asked.write_text(json.dumps(request | {"base": None if base is None else str(base.resolve())}))
        # -P: else the reader's own directory, which is full of our modules, would come first in the import path.
        command = [sys.executable, "-P", proof_reader.__file__, str(folder.resolve()), str(asked), str(result)]
        # The folder must be enough by itself; CUDA is hidden, so that both sides compute on the CPU.
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TRANSFORMERS_VERBOSITY": "error",
            "HF_MODULES_CACHE": scratch,  # where transformers copies a release's own code to
        }
        _give_back_memory()
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            lines = run.stderr.strip().splitlines() or [f"exit code {run.returncode}"]
            raise DoesNotLoadError(lines[-1])
        answer: dict[str, Any] = torch.load(result, weights_only=True)
        return answer


def _give_back_memory() -> None:
    """Return what was freed to the system, for the other process: glibc keeps tensors of less than 32 MB."""
    with suppress(OSError, AttributeError, TypeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
