"""What is measured of an arm on a GPU, and its result file.

A checkpoint ends with the machine that trained it, so arms that are compared need not have been on one machine: their
losses window by window are in the result, on windows that are the same everywhere (a fingerprint says so). Forward
passes are in bfloat16 autocast, as in training, with losses in float32; the base is measured in the same way beside
every arm.
"""

import json
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from gpu_arms import GpuArm
from gpu_pieces import device, metrics, newest, pieces, versions
from measure import measure, tabulate

NEEDLE_LENGTHS = (4_096, 8_192, 16_384, 32_768)
SHORTEST = 128  # tokens of a prompt that has room for a needle, in a trial


def measure_arm(arm: GpuArm, work: Path, *, model: Path, windows: int, needles: int, command: str) -> dict[str, Any]:
    """Measure the newest checkpoint, keep what is found in the arm's folder, and return it.

    Args:
        arm: trained so far as it is.
        work: folder of the corpora; raw losses are kept in it and used again.
        model: the base of the position arms.
        windows: of each source.
        needles: probes of each length and depth, of position arms; 0: none.
        command: that this is part of.

    Raises:
        UserError: nothing is trained yet, or no held-out document is long enough.
    """
    from lit_long.errors import UserError

    checkpoint, steps = newest(arm)
    if checkpoint is None:
        raise UserError(f"{arm.name}: nothing is trained yet")
    extends = arm.study == "positions"
    # of a curriculum, the arm itself is the base: what it is compared with may be on another machine
    models = {"base": str(model), arm.name: str(checkpoint)} if extends else {"base": str(checkpoint)}
    began = time.monotonic()
    with _precision():
        found = measure(
            work,
            models,
            windows,
            length=arm.length,
            native=arm.native,
            study=f"gpu_{arm.study if extends else arm.name}",
            contexts=extends,
            device=_torch_device(),
        )
    own = {name: [name] for name in models} if extends else {arm.name: ["base"]}
    measured = {
        "command": command,
        "device": device(),
        "versions": versions(),
        "steps": steps,
        "tokens": steps * arm.tokens_per_step,
        "arms": tabulate(found, own),
        "windows": {
            source: {
                "fingerprint": evaluation.windows.fingerprint,
                "documents": evaluation.windows.documents.tolist(),
                "loss": evaluation.models[-1].position.nll.double().mean(dim=1).tolist(),
            }
            for source, evaluation in found.items()
        },
        "needles": {},
        "seconds": round(time.monotonic() - began, 1),
    }
    _keep(arm, measured)
    if extends and needles:
        with _precision():
            measured["needles"] = _needles(work, models, needles, arm.tiny)
        measured["seconds"] = round(time.monotonic() - began, 1)
        _keep(arm, measured)
    return measured


def _keep(arm: GpuArm, measured: dict[str, Any]) -> None:
    (arm.arm.folder / "measured.json").write_text(json.dumps(measured))


def _torch_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _precision() -> AbstractContextManager[Any]:
    import torch

    return torch.autocast("cuda", dtype=torch.bfloat16) if torch.cuda.is_available() else nullcontext()


def _needles(work: Path, models: dict[str, str], samples: int, tiny: int) -> dict[str, Any]:
    """By model and length: exact answers, their number, and the gain over the prompt with nothing hidden."""
    from lit_long.data import TokenCorpus
    from lit_long.evaluation.raw_store import model_key
    from lit_long.evaluation.retrieval.grid import GridSpec, retrieval_grid
    from lit_long.evaluation.retrieval.haystack import Haystack
    from lit_long.evaluation.retrieval.summary import by_length
    from lit_long.model.inference import load_for_inference
    from lit_long.model.tokenizer import load_tokenizer

    haystack = Haystack.of_corpus(TokenCorpus(str(work / "books"), "held_out"), load_tokenizer(models["base"]))
    lengths = tuple(length // tiny for length in NEEDLE_LENGTHS if length // tiny >= SHORTEST)
    spec = GridSpec(lengths=lengths, samples=samples)
    found: dict[str, Any] = {}
    for name, path in models.items():
        print(f"needles: {name}, {spec.tokens:,} tokens", flush=True)
        rows = retrieval_grid(
            load_for_inference(path).model.to(_torch_device()),
            haystack,
            spec,
            rows_file=work / "raw" / "gpu_needles" / f"{name}.jsonl",
            model_key=model_key(path),
            allow_beyond=True,
        )
        found[name] = {
            str(score.length): {"exact": score.exact.hits, "asked": score.exact.count, "gain": score.gain}
            for score in by_length(rows)
        }
    return found


def write_result(arm: GpuArm, folder: Path, base: str) -> Path:
    """``paper_gpu_NAME.json``: everything that is known of an arm so far."""
    _, steps = newest(arm)
    measured, rows = arm.arm.folder / "measured.json", [row for row in metrics(arm) if row["step"] < steps]
    result = {
        "study": arm.study,
        "arm": arm.name,
        "base": base,
        "length": arm.length,
        "native_length": arm.native,
        "tiny": arm.tiny,
        "tokens_per_step": arm.tokens_per_step,
        "planned_tokens": arm.steps * arm.tokens_per_step,
        "tokens": steps * arm.tokens_per_step,
        "formula_flops": arm.formula_flops,
        "exact_flops": rows[-1].get("flops") if rows else None,
        "pieces": pieces(arm),
        "train_loss": [round(row["loss"], 4) for row in rows],
        "measured": json.loads(measured.read_text()) if measured.exists() else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"paper_gpu_{arm.name}.json"
    file.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {file.name}", flush=True)
    return file
