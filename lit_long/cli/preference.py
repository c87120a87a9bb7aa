"""``lit-long preference``: blind sheets of answer pairs for human raters, and what their votes say."""

import argparse
import json
import sys
from pathlib import Path

from lit_long.cli.command import Command
from lit_long.errors import UserError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="export|import")
    export = actions.add_parser("export", help="write blind, randomised sheets for raters, and a hidden key")
    export.add_argument(
        "answers",
        nargs=2,
        metavar="NAME=FILE",
        help="answers of a model: JSON lines with id, prompt and answer; the same prompts in both files",
    )
    export.add_argument("--output", required=True, metavar="DIR", help="folder for sheets and key")
    export.add_argument("--raters", type=int, default=3, metavar="N", help="sheets to write (default: %(default)s)")
    export.add_argument("--seed", type=int, default=0, help="seed of all orders (default: %(default)s)")
    read = actions.add_parser("import", help="count the votes: win, tie and loss with 95 %% intervals")
    read.add_argument("folder", metavar="DIR", help="folder of the export, with its key.json")
    read.add_argument("--sheets", nargs="+", metavar="FILE", help="filled sheets (default: those in DIR)")
    read.add_argument("--json", action="store_true", help="print the numbers as JSON, and nothing else")


def _run(args: argparse.Namespace) -> int:
    return _export(args) if args.action == "export" else _import(args)


def _export(args: argparse.Namespace) -> int:
    from lit_long.evaluation.preference.sheets import export_sheets, read_pairs

    named = []
    for argument in args.answers:
        name, separator, file = argument.partition("=")
        if not separator or not name or not file:
            raise UserError(f"'{argument}' is not NAME=FILE; raters never see the name, the result needs it.")
        named.append((name, Path(file)))
    (first, ours), (second, theirs) = named
    if first == second:
        raise UserError(f"Both files are called '{first}'. Name the models apart.")
    pairs = read_pairs(ours, theirs)
    files = export_sheets(pairs, (first, second), Path(args.output), raters=args.raters, seed=args.seed)
    same = sum(pair.first == pair.second for pair in pairs)
    print(f"{len(pairs)} prompts for {args.raters} raters" + (f"; {same} have two equal answers" if same else ""))
    print("\n".join(f"  {file}" for file in files))
    print("Give each rater their sheet and instructions.md, and nobody key.json.")
    return 0


def _import(args: argparse.Namespace) -> int:
    from lit_long.evaluation.preference.votes import import_votes, markdown, to_json

    folder = Path(args.folder)
    preference = import_votes(folder, [Path(sheet) for sheet in args.sheets] if args.sheets else None)
    content = to_json(preference)
    (folder / "preference.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "preference.md").write_text(markdown(preference), encoding="utf-8")
    if args.json:
        json.dump(content, sys.stdout, indent=1)
        print()
    else:
        print(markdown(preference))
        print(f"Files:\n  {folder / 'preference.json'}\n  {folder / 'preference.md'}")
    return 0


COMMAND = Command(
    name="preference",
    summary="blind sheets for human raters, and win, tie and loss with intervals",
    add_arguments=_add_arguments,
    run=_run,
)
