"""``lit-long push``: a proved release, or a corpus, is published in one commit.

Only the standard library is imported here, so that ``--help`` answers at once.
"""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lit_long.cli.command import Command

if TYPE_CHECKING:
    from lit_long_hub.remote.publish import Published


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of ``lit-long push``."""
    parser.add_argument(
        "folder",
        metavar="DIR",
        help="what `lit-long export` wrote (published as a model), or `lit-long prepare` (published as a dataset)",
    )
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="repository, created if it is not there")
    parser.add_argument("--tag", metavar="TAG", help="tag of the commit, such as v1.0; tags are never moved")
    parser.add_argument("--public", action="store_true", help="let everybody see it (default: private)")
    parser.add_argument("--message", metavar="TEXT", help="title of the commit")
    parser.add_argument(
        "--replace", metavar="COMMIT", help="somebody else's commit at the head that this one may replace"
    )
    parser.add_argument("--license", metavar="ID", help="Hub id of a corpus's licence (a model has one already)")
    parser.add_argument(
        "--language", action="append", metavar="CODE", help="ISO 639 code for a corpus's card, such as en (repeatable)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: Namespace) -> int:
    """Publish, and print where it is.

    Returns:
        0.

    Raises:
        UserError: Input that a user can correct, or the Hub cannot be reached.
    """
    from lit_long_hub.push import push_release
    from lit_long_hub.push_data import is_corpus, push_dataset

    options = {"tag": args.tag, "public": args.public, "message": args.message, "replace": args.replace}
    if is_corpus(Path(args.folder)):
        published = push_dataset(args.folder, args.repo_id, license=args.license, languages=args.language, **options)
    else:
        if args.license is not None:
            from lit_long.errors import UserError

            raise UserError("--license belongs to `lit-long export` where a model is published. Export again with it.")
        published = push_release(args.folder, args.repo_id, **options)
    print(json.dumps(asdict(published), indent=2) if args.json else _as_text(published, args.folder))
    return 0


def _as_text(published: "Published", folder: str) -> str:
    seen = "private" if published.private else "public"
    name = f"{published.repo_id}@{published.tag or published.commit}"
    prefix = "datasets/" if "/datasets/" in published.url else ""
    lines = [
        f"Published {folder} as {published.url} ({seen})",
        f"  commit      {published.commit}" + (f", tag {published.tag}" if published.tag else ""),
        f"  files       {len(published.uploaded)} sent, {len(published.unchanged)} already there, "
        f"{len(published.deleted)} of an earlier release deleted",
        "  checked     sizes and checksums of all files, as the Hub lists them",
    ]
    if published.kept:
        lines.append(f"  left alone  {', '.join(published.kept)}")
    return "\n".join([*lines, "", "Fetch it:", f"  lit-long pull {prefix}{name}"])


COMMAND = Command(
    name="push",
    summary="publish a proved model or a corpus on the Hub, in one commit, private by default",
    add_arguments=add_arguments,
    run=run,
)
