"""Checkpoint in, proved Hugging Face folder out: the order of the steps and nothing else.

The order matters: whatever can be refused is refused before the output is touched; config.json, which makes the folder
loadable, comes after weights and tokenizer; README.md comes after the proof. Any failure takes config.json away again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long_hub import proof_reader
from lit_long_hub.adapter import ADAPTER_CONFIG_NAME, adapter_config
from lit_long_hub.atomic_file import write_json
from lit_long_hub.companions import write_card, write_companions
from lit_long_hub.config_files import write_config
from lit_long_hub.convert import Progress, write_weights
from lit_long_hub.custom_code import decay_length, write_code
from lit_long_hub.inputs import ExportOptions, ReleaseInputs, read_inputs
from lit_long_hub.output_folder import prepare_folder
from lit_long_hub.plain_checkpoint import PlainModel
from lit_long_hub.proof import TEXTS, VERIFICATION_NAME, ExportMismatchError, prove, withdraw
from lit_long_hub.reference import make_prompts, measure_reference
from lit_long_hub.release_files import hashes_of
from lit_long_hub.report import copy_plots
from lit_long_hub.resume import end_record, export_key, finished_files, start_record
from lit_long_hub.tokenizer_files import load_trained


@dataclass(frozen=True)
class ExportResult:
    """What an export made."""

    folder: Path
    """The release."""

    files: list[str]
    """Every file written, relative to the folder."""

    total_bytes: int
    """Bytes of the weights."""

    parameters: int
    """Elements of the weights, tied ones once."""

    dtype: str
    """Of the weights: ``float32``, ``bfloat16`` or ``float16``."""

    verification: dict[str, Any] | None
    """The content of verification.json; None with ``verify=False``."""

    resumed: list[str] = field(default_factory=list)
    """Weight files that an earlier export, which was cut off, had finished."""


def export_checkpoint(
    checkpoint: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    max_shard_size: int | str = "5GB",
    license: str | None = None,
    base_model: str | None = None,
    tokenizer: str | None = None,
    report: str | Path | None = None,
    languages: Sequence[str] = (),
    datasets: Sequence[str] = (),
    plain: PlainModel | None = None,
    adapter: bool = False,
    verify: bool = True,
    progress: Progress | None = None,
) -> ExportResult:
    """Turn a lit-long checkpoint into a folder that plain transformers loads with the same logits.

    A model that was trained with xPos needs code that the folder then holds (``trust_remote_code=True``).

    Args:
        checkpoint: A checkpoint of ``LongContextModule``, a file or a sharded folder.
        output: Folder to write: new, empty or an earlier export, which is replaced.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None keeps the checkpoint's (float32 where LoRA is merged).
        max_shard_size: Largest weight file, in bytes or as text such as ``5GB``.
        license: Hub id of the licence; None takes it from the base model's card.
        base_model: Hub id or folder of the base model, where the checkpoint's own is gone or private.
        tokenizer: Hub id or folder of the tokenizer, likewise.
        report: ``report.md`` of ``lit-long evaluate``, whose tables and plots go into the card.
        languages: ISO 639 codes for the card, such as ``en``.
        datasets: Hub ids of the data for the card.
        plain: For a checkpoint of another LightningModule than lit-long's: where its config is.
        adapter: Of a LoRA run, release the adapter alone; its base must be public. By default it is merged into it.
        verify: Whether to prove the folder. Without a proof there is no verification.json and the card is silent on it.
        progress: Called with a text, the steps done and the steps in all.

    Returns:
        The folder, its files and the measured numbers.

    Raises:
        UserError: Something in the input that a user can correct; the output does not load.
        ExportMismatchError: The folder is not the model that was trained; its config.json was taken away.
    """
    progress = progress or (lambda text, done, total: None)
    output = Path(output)
    options = ExportOptions(
        dtype=dtype,
        max_shard_size=max_shard_size,
        license=license,
        base_model=base_model,
        tokenizer=tokenizer,
        report=report,
        languages=languages,
        datasets=datasets,
        plain=plain,
        adapter=adapter,
    )
    inputs = read_inputs(checkpoint, options)
    source, architecture, weights, plan = inputs.source, inputs.architecture, inputs.weights, inputs.plan
    key = export_key(source, plan, base_files=weights.base_files)
    finished = finished_files(output, plan, key)
    with _disk_errors(output):
        prepare_folder(output, inputs=inputs.places, needed=plan.bytes_without(finished), keep=finished)
        start_record(output, key)
    with _disk_errors(output), _withdrawn_on_failure(output):
        files = write_companions(inputs, output)
        files += write_weights(plan, weights.release, output, progress=progress, finished=finished)
        files += write_code(architecture.custom_code, output)
        if inputs.adapter is not None:
            assert weights.lora is not None
            write_json(output / ADAPTER_CONFIG_NAME, adapter_config(weights.lora, inputs.adapter))
            files.append(ADAPTER_CONFIG_NAME)
        files.append(write_config(output, inputs.config))
        verification = None
        if verify:
            verification = _verify(inputs, output, files, progress)
            files.append(VERIFICATION_NAME)
        files += copy_plots(inputs.evaluation, output) if inputs.evaluation else []
        files.append(write_card(inputs, output, verification))
        end_record(output)
    return ExportResult(
        folder=output,
        files=files,
        total_bytes=plan.total_bytes,
        parameters=plan.parameters,
        dtype=str(plan.dtype).removeprefix("torch."),
        verification=verification,
        resumed=sorted(finished),
    )


def _verify(inputs: ReleaseInputs, output: Path, files: list[str], progress: Progress) -> dict[str, Any]:
    source, architecture, words, base = inputs.source, inputs.architecture, inputs.words, inputs.adapter
    prompts = make_prompts(
        vocab_size=int(architecture.config.vocab_size),
        native_length=source.native_length,
        context_length=source.context_length,
        decay_length=decay_length(source.record["config"]),
    )
    progress("Measuring the training model", 0, 1)
    reference = measure_reference(
        architecture, inputs.weights, dtype=inputs.plan.dtype, prompts=prompts, adapter=base is not None
    )
    progress("Measuring the training model", 1, 1)
    progress("Loading the folder in a fresh process", 0, 1)
    expected = proof_reader.read_tokenizer(load_trained(words), TEXTS)
    try:
        verification = prove(
            output,
            reference,
            expected | {"model_max_length": source.context_length},
            custom_code=architecture.custom_code is not None,
            base=base,
        )
    except ExportMismatchError as error:
        if error.verification is not None:
            write_json(output / VERIFICATION_NAME, error.verification)
        end_record(output)  # whatever is wrong with the files, none of them is taken over
        raise
    # The proof is of these bytes: `lit-long push` publishes no others under it.
    verification["files"] = hashes_of(output, files)
    write_json(output / VERIFICATION_NAME, verification)
    progress("Loading the folder in a fresh process", 1, 1)
    return verification


@contextmanager
def _withdrawn_on_failure(output: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        withdraw(output)
        raise


@contextmanager
def _disk_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"Writing {output} failed: {error.strerror or error}. Free space or give another folder."
        ) from error
