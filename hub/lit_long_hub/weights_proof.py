"""Proves a release that is never whole on this disk: weight file by weight file, bit by bit, and its structure.

Logits need all weights at once, so none are compared here, and verification.json says so (``kind: weights``). What is
shown: each file that stock safetensors reads holds the checkpoint's tensors, cast, every bit; stock transformers, in a
fresh process, builds from config.json a model with just these tensors, the trained positions and the trained tokenizer.
Together they leave out the arithmetic of the model class, which is transformers' own in training and in the release.
"""

from pathlib import Path
from typing import Any

import torch

from lit_long_hub import proof_reader
from lit_long_hub.fresh_process import DoesNotLoadError, run_reader
from lit_long_hub.inputs import ReleaseInputs
from lit_long_hub.proof import TEXTS, ExportMismatchError, LiveRotary, compare_positions
from lit_long_hub.proof_kinds import WEIGHTS
from lit_long_hub.second_reading import MERGE_TOLERANCE, MergeMismatchError, SecondReading
from lit_long_hub.tokenizer_files import load_trained

_PIECE = 16 * 2**20
"""Elements that are cast and compared at a time."""

RULE = (
    "No logits were compared: the release was converted while it was published, one weight file at a time. Each file "
    "was read back with safetensors, and every tensor must equal the checkpoint's, read again and cast to the "
    "release's dtype, in every bit. In a fresh process plain transformers builds the model from config.json without "
    "weights: its tensors' names and shapes must be those of the files, inv_freq those of the training model, and the "
    "tokenizer must load and do what the trained one does."
)


class WeightsProof:
    """The proof of one release, filled while its files come and go.

    Args:
        inputs: What the release is made from.
        folder: Where config.json, tokenizer and code are.

    Raises:
        ExportMismatchError: What transformers makes of them is not the model that was trained.
    """

    def __init__(self, inputs: ReleaseInputs, folder: Path) -> None:
        self._inputs, self._again = inputs, SecondReading(inputs.weights)
        self._compared: set[str] = set()
        self._bytes = 0
        self._structure = _prove_structure(inputs, folder)

    def compare(self, path: Path) -> None:
        """Compare a weight file with the checkpoint.

        Args:
            path: The file, finished.

        Raises:
            ExportMismatchError: A tensor too many, too few, of another shape or dtype, or with one other bit.
        """
        from safetensors import SafetensorError, safe_open

        plan = self._inputs.plan
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                names = list(file.keys())
                if set(names) != set(plan.files[path.name]):
                    raise ExportMismatchError(f"{path.name} holds other tensors than the index says.")
                for name in names:
                    self._compare_tensor(path.name, name, file.get_tensor(name))
        except SafetensorError as error:
            raise ExportMismatchError(f"{path.name} cannot be read back: {error}") from error

    def _compare_tensor(self, file_name: str, name: str, stored: torch.Tensor) -> None:
        planned = self._inputs.plan.tensors[name]
        try:
            expected = self._again.read(name)
        except MergeMismatchError as error:
            raise ExportMismatchError(str(error)) from error
        if stored.shape != expected.shape or stored.dtype != planned.dtype:
            raise ExportMismatchError(
                f"{file_name}: {name} is {list(stored.shape)} in {stored.dtype} instead of {list(expected.shape)} in "
                f"{planned.dtype}."
            )
        pairs = zip(stored.reshape(-1).split(_PIECE), expected.reshape(-1).split(_PIECE), strict=True)
        for ours, theirs in pairs:
            if not torch.equal(ours.view(torch.uint8), theirs.to(planned.dtype).contiguous().view(torch.uint8)):
                raise ExportMismatchError(f"{file_name}: {name} does not hold the checkpoint's numbers.")
        self._compared.add(name)
        self._bytes += stored.nbytes

    def verification(self, files: dict[str, dict[str, int | str]]) -> dict[str, Any]:
        """The content of verification.json.

        Args:
            files: Size and sha256 of every file that the proof is of.

        Raises:
            ExportMismatchError: A tensor of the release was not compared.
        """
        if missing := sorted(self._inputs.plan.tensors.keys() - self._compared):
            raise ExportMismatchError(f"{missing[0]} was not compared with the checkpoint.")
        weights = {
            "tensors": len(self._compared),
            "bytes": self._bytes,
            "different_bits": 0,
            "merged": self._again.merged,
            "merge_difference": self._again.merge_difference,
            "merge_tolerance": MERGE_TOLERANCE,
        }
        return (
            planned_verification(self._inputs) | self._structure | {"passed": True, "weights": weights, "files": files}
        )


def planned_verification(inputs: ReleaseInputs) -> dict[str, Any]:
    """What verification.json says of a proof of this kind before anything is proved; ``passed`` is False.

    Args:
        inputs: What the release is made from.
    """
    return {
        "writer": "lit-long",
        "format": 1,
        "kind": WEIGHTS,
        "passed": False,
        "problems": [],
        "rule": RULE,
        "custom_code": inputs.architecture.custom_code is not None,
        "dtype": str(inputs.plan.dtype).removeprefix("torch."),
        "prompts": [],
        "loss_by_position": [],
    }


def _prove_structure(inputs: ReleaseInputs, folder: Path) -> dict[str, Any]:
    custom_code = inputs.architecture.custom_code is not None
    try:
        reading = run_reader(folder, None, TEXTS, custom_code=custom_code)
    except DoesNotLoadError as error:
        raise ExportMismatchError(f"The release does not load with plain transformers: {error}") from error
    problems = _tensor_problems(inputs, reading)
    with torch.device("meta"):
        trained = inputs.architecture.model_class(inputs.architecture.config)
    inv_freq, scaling, _ = proof_reader.live_rotary(trained)
    positions = compare_positions(folder, LiveRotary(inv_freq, scaling), reading, problems)
    length, dtype = inputs.source.context_length, str(inputs.plan.dtype).removeprefix("torch.")
    for what, found, wanted in (
        ("max_position_embeddings", reading["context_length"], length),
        ("dtype", reading["dtype"], dtype),
        ("the model's class", reading["model_class"], inputs.config["architectures"][0]),
    ):
        if found != wanted:
            problems.append(f"{what} is {found} instead of {wanted}")
    words = proof_reader.read_tokenizer(load_trained(inputs.words), TEXTS)
    for key, expected in (words | {"model_max_length": length}).items():
        if reading["tokenizer"][key] != expected:
            problems.append(f"the tokenizer's {key} differs from the one that was trained with")
    if problems:
        raise ExportMismatchError(f"The release is not the model that was trained: {'; '.join(problems)}.")
    return {
        "positions": positions,
        "tokenizer_size": reading["tokenizer"]["size"],
        "versions": reading["versions"],
    }


def _tensor_problems(inputs: ReleaseInputs, reading: dict[str, Any]) -> list[str]:
    """Whether the planned files give the model each of its tensors once."""
    planned = {name: list(tensor.shape) for name, tensor in inputs.plan.tensors.items()}
    expected: dict[str, list[int]] = reading["shapes"]
    tied = {name: set(names) for names in reading["tied"] for name in names}
    problems = [
        f"{name} is {shape} in the files and {expected.get(name, 'nothing')} in the model"
        for name, shape in planned.items()
        if expected.get(name) != shape
    ]
    problems += [f"{name} is in no file" for name in expected if not tied.get(name, {name}) & planned.keys()]
    return problems
