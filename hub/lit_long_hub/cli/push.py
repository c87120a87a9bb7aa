"""``lit-long push``: a proved release, a checkpoint or a corpus is published in one commit.

Only the standard library is imported here, so that ``--help`` answers at once.
"""

import json
import sys
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_long.cli.command import Command
from lit_long_hub.cli.export_options import add_export_options, export_options, given_options
from lit_long_hub.cli.progress import progress_bars

if TYPE_CHECKING:
    from lit_long_hub.remote.publish import Published


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of ``lit-long push``."""
    parser.add_argument(
        "source",
        metavar="DIR|CHECKPOINT",
        help="what `lit-long export` wrote (published as a model); a checkpoint, file or sharded folder, which is "
        "converted while it is published; or what `lit-long prepare` wrote (published as a dataset)",
    )
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="repository, created if it is not there")
    parser.add_argument("--tag", metavar="TAG", help="tag of the commit, such as v1.0; tags are never moved")
    parser.add_argument("--public", action="store_true", help="let everybody see it (default: private)")
    parser.add_argument("--message", metavar="TEXT", help="title of the commit")
    parser.add_argument(
        "--replace", metavar="COMMIT", help="somebody else's commit at the head that this one may replace"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    group = parser.add_argument_group(
        "for a checkpoint",
        "As `lit-long export` has them; the disk holds one weight file at a time, and no logits are compared. "
        "--license and --language serve a corpus too.",
    )
    group.add_argument(
        "--work-dir", metavar="DIR", help="folder for the weight file at hand (default: CHECKPOINT.push beside it)"
    )
    add_export_options(
        group, license_help="Hub id of the licence (default: what the base model's card says; a corpus has none)"
    )


def run(args: Namespace) -> int:
    """Publish, and print where it is.

    Returns:
        0, or 1 if a checkpoint's release is not the model that was trained.

    Raises:
        UserError: Input that a user can correct, or the Hub cannot be reached.
    """
    from lit_long_hub.push_data import is_corpus, push_dataset

    options = {"tag": args.tag, "public": args.public, "message": args.message, "replace": args.replace}
    source, how = Path(args.source), "sizes and checksums of all files, as the Hub lists them"
    if _is_checkpoint(source):
        from lit_long_hub.proof import ExportMismatchError

        try:
            published = _push_checkpoint(args, options)
        except ExportMismatchError as error:
            print(f"lit-long push: {error}\nNothing was published.", file=sys.stderr)
            return 1
        how += ";\n              before it weights, positions and tokenizer, with the checkpoint (no logits)"
    elif is_corpus(source):
        _refuse_options([name for name in given_options(args) if name != "--language"], args)
        languages = args.language or None
        published = push_dataset(source, args.repo_id, license=args.license, languages=languages, **options)
    else:
        from lit_long_hub.push import push_release

        _refuse_options([*(["--license"] if args.license is not None else []), *given_options(args)], args)
        published = push_release(source, args.repo_id, **options)
    print(json.dumps(asdict(published), indent=2) if args.json else _as_text(published, args.source, how))
    return 0


def _is_checkpoint(source: Path) -> bool:
    if source.is_file() or source.suffix == ".ckpt":
        return True
    from lit_long.model.sharded_checkpoint import is_sharded_checkpoint

    return is_sharded_checkpoint(source)


def _refuse_options(names: list[str], args: Namespace) -> None:
    from lit_long.errors import UserError

    if args.work_dir is not None:
        names = [*names, "--work-dir"]
    if names:
        raise UserError(
            f"{', '.join(names)} {'belongs' if len(names) == 1 else 'belong'} to a checkpoint that is converted while "
            f"it is published; {args.source} is none. For a model that was exported, give it to `lit-long export`."
        )


def _push_checkpoint(args: Namespace, options: dict[str, Any]) -> "Published":
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    from lit_long_hub.inputs import ExportOptions
    from lit_long_hub.streamed_push import push_checkpoint

    disable_progress_bar()  # transformers' own and the client's, which would come between ours
    disable_progress_bars()
    with progress_bars() as progress:
        return push_checkpoint(
            args.source,
            args.repo_id,
            ExportOptions(**export_options(args)),
            work_dir=args.work_dir,
            progress=progress,
            **options,
        )


def _as_text(published: "Published", source: str, how: str) -> str:
    seen = "private" if published.private else "public"
    name = f"{published.repo_id}@{published.tag or published.commit}"
    prefix = "datasets/" if "/datasets/" in published.url else ""
    lines = [
        f"Published {source} as {published.url} ({seen})",
        f"  commit      {published.commit}" + (f", tag {published.tag}" if published.tag else ""),
        f"  files       {len(published.uploaded)} sent, {len(published.unchanged)} already there, "
        f"{len(published.deleted)} of an earlier release deleted",
        f"  checked     {how}",
    ]
    if published.kept:
        lines.append(f"  left alone  {', '.join(published.kept)}")
    return "\n".join([*lines, "", "Fetch it:", f"  lit-long pull {prefix}{name}"])


COMMAND = Command(
    name="push",
    summary="publish a proved model, a checkpoint or a corpus on the Hub, in one commit, private by default",
    add_arguments=add_arguments,
    run=run,
)
