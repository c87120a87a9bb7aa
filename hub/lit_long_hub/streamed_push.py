"""Publishes a checkpoint without exporting it first: this disk holds one weight file of the release at a time.

Everything that can be refused is refused before the first weight file is sent: input, licence, structure, space, the
repository. A weight file is then converted, hashed, read back and compared with the checkpoint, uploaded and removed.
The proof and the card follow, and one commit makes all of it visible. A run that was cut off converts again, which
costs reading, and sends what the Hub does not have, which it knows by the hashes.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lit_long.errors import UserError
from lit_long_hub.atomic_file import write_json
from lit_long_hub.companions import write_card, write_companions
from lit_long_hub.config_files import write_config
from lit_long_hub.convert import write_file, write_index
from lit_long_hub.custom_code import write_code
from lit_long_hub.inputs import ExportOptions, ReleaseInputs, read_inputs
from lit_long_hub.proof import VERIFICATION_NAME
from lit_long_hub.push import check_licence, check_repo_id, release_target
from lit_long_hub.release_files import hashes_of
from lit_long_hub.remote.client import hub_client
from lit_long_hub.remote.publish import Progress, Published, Upload, publish
from lit_long_hub.report import copy_plots
from lit_long_hub.validate import validate_release
from lit_long_hub.weights_proof import WeightsProof, planned_verification
from lit_long_hub.work_folder import work_folder


def push_checkpoint(
    checkpoint: str | Path,
    repo_id: str,
    options: ExportOptions | None = None,
    *,
    work_dir: str | Path | None = None,
    tag: str | None = None,
    public: bool = False,
    message: str | None = None,
    replace: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> Published:
    """Convert and publish a checkpoint in one commit; private unless ``public``.

    Its proof is of the kind ``weights``: every bit of the weights, positions and tokenizer, but no logits. Whoever has
    the disk and memory can make the full one: ``lit-long export`` with the same options writes the same weight files,
    and ``lit-long push`` of that folder then sends its proof and card alone.

    Args:
        checkpoint: A checkpoint of ``LongContextModule``, a file or a sharded folder.
        repo_id: ``organisation/name``; created if it is not there.
        options: As ``export_checkpoint`` has them.
        work_dir: Folder for the weight file at hand; None is ``CHECKPOINT.push`` beside the checkpoint. Removed.
        tag: Tag of the commit, such as ``v1.0``; made only after the commit was checked.
        public: Make the repository public, as the last step.
        message: Title of the commit.
        replace: Commit by somebody else, at the head of the repository, that may be replaced.
        endpoint: Another Hub's address.
        token: Access token; None takes ``HF_TOKEN`` or the one of ``hf auth login``.
        progress: Told about every file.

    Raises:
        UserError: Something in the input that a user can correct; the licence's duties are not met; too little space;
            the Hub refuses, or holds somebody else's change.
        ExportMismatchError: The release is not the model that was trained; nothing was published.
    """
    check_repo_id(repo_id)
    progress = progress or (lambda text, done, total: None)
    inputs = read_inputs(checkpoint, options or ExportOptions())
    source = inputs.source.path
    place = Path(work_dir) if work_dir is not None else source.with_name(f"{source.name}.push")
    for path in inputs.places:
        if path.resolve().is_relative_to(place.resolve()):
            raise UserError(f"The release is made from {path}, so {place} cannot be its --work-dir. Give another.")
    plan = inputs.plan
    with work_folder(place, largest=max(plan.file_bytes(name) for name in plan.files)) as folder, _disk_full(folder):
        files = write_companions(inputs, folder)
        files += write_index(plan, folder)
        files += write_code(inputs.architecture.custom_code, folder)
        files.append(write_config(folder, inputs.config))
        progress("Building the model in a fresh process", 0, 1)
        proof = WeightsProof(inputs, folder)
        progress("Building the model in a fresh process", 1, 1)
        plots = copy_plots(inputs.evaluation, folder) if inputs.evaluation else []
        write_card(inputs, folder, planned_verification(inputs))  # what can be refused of it, is refused now
        release = validate_release(folder, to_come=plan.files)
        check_licence(release, repo_id)
        target = release_target(repo_id, release.config, tag=tag, public=public, message=message, replace=replace)
        uploads = _uploads(inputs, folder, files, plots, proof, progress)
        total = len(plan.files) + len(files) + len(plots) + 2
        return publish(hub_client(endpoint=endpoint, token=token), target, uploads, total=total, progress=progress)


def _uploads(
    inputs: ReleaseInputs, folder: Path, files: list[str], plots: list[str], proof: WeightsProof, progress: Progress
) -> Iterator[Upload]:
    """The files of the release, each made when it is asked for: weights, what goes with them, the proof, the card."""
    plan, done = inputs.plan, 0
    hashes = hashes_of(folder, files)
    for name in plan.files:
        for _ in write_file(plan, inputs.weights.release, folder, name):
            done += 1
            progress("Converting weights", done, len(plan.tensors))
        # Hashed first and compared then: what is uploaded under this hash are the bytes that were compared.
        hashes |= hashes_of(folder, [name])
        proof.compare(folder / name)
        yield Upload(name, folder / name, str(hashes[name]["sha256"]), temporary=True)
    for name in files:
        yield Upload(name, folder / name, str(hashes[name]["sha256"]))
    for name in plots:
        yield Upload(name, folder / name)
    verification = proof.verification(dict(sorted(hashes.items())))
    write_json(folder / VERIFICATION_NAME, verification)
    yield Upload(VERIFICATION_NAME, folder / VERIFICATION_NAME)
    yield Upload("README.md", folder / write_card(inputs, folder, verification))


@contextmanager
def _disk_full(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(_cannot_write(folder, error)) from error
    except UserError as error:
        # The Hub's side words every error of the system as its own; a full disk is ours.
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            raise UserError(_cannot_write(folder, cause)) from error
        raise


def _cannot_write(folder: Path, error: OSError) -> str:
    return (
        f"Writing to {folder} failed: {error.strerror or error}. Nothing was published. Free space or give another "
        "--work-dir, and run the same command again: what was uploaded is not uploaded again."
    )
