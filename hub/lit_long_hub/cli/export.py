"""``lit-long export``: a checkpoint becomes a proved Hugging Face folder.

Only the standard library is imported here, so that ``--help`` answers at once.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lit_long.cli.command import Command

if TYPE_CHECKING:
    from lit_long_hub.convert import Progress
    from lit_long_hub.export import ExportResult


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of ``lit-long export``."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="checkpoint of `lit-long fit`, file or sharded folder (*.ckpt)"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder to write: new, empty or an earlier export"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype of the weights (default: the checkpoint's; float32 where LoRA is merged)",
    )
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="largest weight file, such as 500MB (default: 5GB)"
    )
    parser.add_argument(
        "--license", metavar="ID", help="Hub id of the licence (default: what the base model's card says)"
    )
    parser.add_argument("--base-model", metavar="MODEL", help="Hub id or folder (default: what the checkpoint says)")
    parser.add_argument("--tokenizer", metavar="MODEL", help="Hub id or folder (default: what the checkpoint says)")
    parser.add_argument("--report", metavar="FILE", help="report.md of `lit-long evaluate`, shown in the card")
    parser.add_argument(
        "--language", action="append", default=[], metavar="CODE", help="ISO 639 code for the card (repeatable)"
    )
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="ID", help="Hub id of the data for the card (repeatable)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: Namespace) -> int:
    """Export, and print where the folder is and what was measured.

    Returns:
        0, or 1 if the folder is not the model that was trained.

    Raises:
        UserError: Input that a user can correct.
    """
    from transformers.utils.logging import disable_progress_bar

    from lit_long_hub.export import export_checkpoint
    from lit_long_hub.proof import ExportMismatchError

    disable_progress_bar()  # transformers' own, which would come between ours
    try:
        with _progress() as progress:
            result = export_checkpoint(
                args.checkpoint,
                args.output,
                dtype=args.dtype,
                max_shard_size=args.max_shard_size,
                license=args.license,
                base_model=args.base_model,
                tokenizer=args.tokenizer,
                report=args.report,
                languages=args.language,
                datasets=args.dataset,
                progress=progress,
            )
    except ExportMismatchError as error:
        print(f"lit-long export: {error}\nIts config.json was renamed to config.json.refused.", file=sys.stderr)
        return 1
    print(_as_json(result) if args.json else _as_text(result))
    return 0


@contextmanager
def _progress() -> Iterator["Progress"]:
    """A progress bar on stderr, one line for each kind of work."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    with Bar(console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(text: str, done: int, total: int) -> None:
            if text not in tasks:
                tasks[text] = bar.add_task(text, total=total)
            bar.update(tasks[text], completed=done)

        yield show


def _as_text(result: "ExportResult") -> str:
    from lit_long_hub.card import usage_snippet

    assert result.verification is not None, "the command always proves what it exports"
    worst = max(prompt["relative_difference"] for prompt in result.verification["prompts"])
    positions = result.verification["positions"]
    last = max(prompt["last_position"] for prompt in result.verification["prompts"])
    allowed = result.verification["logit_tolerance"]
    custom_code = result.verification["custom_code"]
    by_keys = f"by {'the formula' if custom_code else 'the keys of older readers'}"
    lines = [
        f"Exported {result.folder}: {result.parameters:,} parameters in {result.dtype}, "
        f"{result.total_bytes / 1e6:,.1f} MB of weights",
        *(f"  {name}" for name in sorted(result.files)),
        *([f"  ({len(result.resumed)} weight files were finished before)"] if result.resumed else []),
        "",
        f"Proved in a fresh process with {'transformers and its own code' if custom_code else 'plain transformers'}:",
        f"  logits      largest difference {worst:.2g} of the largest logit (allowed {allowed:g}), "
        f"up to position {last:,}",
        f"  positions   inv_freq differs by {positions['inv_freq_difference']:.2g}; "
        f"{by_keys} {positions['inv_freq_difference_by_legacy_keys']:.2g}",
        "",
        "Load it:",
        usage_snippet(str(result.folder), custom_code=custom_code),
    ]
    return "\n".join(lines)


def _as_json(result: "ExportResult") -> str:
    content = {
        "folder": str(result.folder),
        "files": sorted(result.files),
        "total_bytes": result.total_bytes,
        "parameters": result.parameters,
        "dtype": result.dtype,
        "resumed": result.resumed,
        "verification": result.verification,
    }
    return json.dumps(content, indent=2)


COMMAND = Command(
    name="export",
    summary="turn a checkpoint into a Hugging Face folder, proved to give the same logits",
    add_arguments=add_arguments,
    run=run,
)
