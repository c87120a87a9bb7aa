"""``lit-long export``: a checkpoint becomes a proved Hugging Face folder.

Only the standard library is imported here, so that ``--help`` answers at once.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from lit_long.cli.command import Command
from lit_long_hub.cli.export_options import add_export_options, export_options
from lit_long_hub.cli.progress import progress_bars

if TYPE_CHECKING:
    from lit_long_hub.export import ExportResult


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of ``lit-long export``."""
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", help="checkpoint of `lit-long fit`, file or sharded folder (*.ckpt)"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="folder to write: new, empty or an earlier export"
    )
    add_export_options(parser)
    parser.add_argument(
        "--adapter", action="store_true", help="of a LoRA run, the adapter alone, for a base model that is on the Hub"
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
        with progress_bars() as progress:
            result = export_checkpoint(
                args.checkpoint,
                args.output,
                **export_options(args),
                adapter=args.adapter,
                progress=progress,
            )
    except ExportMismatchError as error:
        print(f"lit-long export: {error}\nIts config.json was renamed to config.json.refused.", file=sys.stderr)
        return 1
    print(_as_json(result) if args.json else _as_text(result))
    return 0


def _as_text(result: "ExportResult") -> str:
    from lit_long_hub.adapter_card import adapter_snippet
    from lit_long_hub.card import usage_snippet

    assert result.verification is not None, "the command always proves what it exports"
    worst = max(prompt["relative_difference"] for prompt in result.verification["prompts"])
    positions = result.verification["positions"]
    last = max(prompt["last_position"] for prompt in result.verification["prompts"])
    allowed = result.verification["logit_tolerance"]
    custom_code = result.verification["custom_code"]
    by_keys = f"by {'the formula' if custom_code else 'the keys of older readers'}"
    adapter = result.verification.get("adapter")
    snippet = usage_snippet(str(result.folder), custom_code=custom_code)
    if adapter is not None:
        snippet = adapter_snippet(str(result.folder), adapter["base_model"], adapter["revision"])
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
        snippet,
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
