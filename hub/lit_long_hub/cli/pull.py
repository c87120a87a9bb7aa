"""``lit-long pull``: a repository is fetched, every byte checked, nothing of it run.

Only the standard library is imported here, so that ``--help`` answers at once.
"""

import json
from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from lit_long.cli.command import Command


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of ``lit-long pull``."""
    parser.add_argument(
        "repository", metavar="ORG/NAME[@REVISION]", help="model, or datasets/ORG/NAME; hf:// in front is fine"
    )
    parser.add_argument("--output", metavar="DIR", help="folder to fetch into (default: ./NAME)")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="also fetch files of this kind, such as '*.py', though a reader could run code from them (repeatable)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: Namespace) -> int:
    """Fetch, and print what the model can do and how to run it.

    Returns:
        0.

    Raises:
        UserError: Input that a user can correct, or the Hub cannot be reached.
    """
    from lit_long_hub.context_facts import context_facts, facts_text
    from lit_long_hub.pull import pull_release

    result = pull_release(args.repository, args.output, allow=tuple(args.allow))
    facts = context_facts(result.folder) if result.kind == "model" else None
    if args.json:
        content = asdict(result) | {"folder": str(result.folder), "model": asdict(facts) if facts else None}
        print(json.dumps(content, indent=2))
        return 0
    print(
        f"Fetched {result.repo_id} at {result.commit[:12]} into {result.folder}: {len(result.files)} files, "
        f"{result.total_bytes / 1e6:,.1f} MB, all checksums right ({len(result.fetched)} fetched now)"
    )
    for path, why in sorted(result.refused.items()):
        print(f"  not fetched: {path} ({why}; --allow '{path}' fetches it)")
    if facts is not None:
        print(facts_text(result.folder, facts))
    return 0


COMMAND = Command(
    name="pull",
    summary="fetch a model or dataset from the Hub, verified, without running anything of it",
    add_arguments=add_arguments,
    run=run,
)
