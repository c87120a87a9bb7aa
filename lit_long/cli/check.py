"""``lit-long check``: is this run right? Everything that can be proved before its first step."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from lit_long.cli.command import Command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--config", action="append", required=True, metavar="RECIPE", help="recipe; several are laid over"
    )
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings of the recipe, e.g. trainer.max_steps=10"
    )


def _run(args: Namespace) -> int:
    import json
    from dataclasses import asdict

    from lit_long.callbacks.preflight import ChecksDone, Preflight
    from lit_long.cli.fit import run
    from lit_long.errors import UserError

    words = [word for config in args.config for word in ("--config", config)]
    for override in args.overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise UserError(f"{override!r} is no setting; give KEY=VALUE, e.g. trainer.max_steps=10")
        words += [f"--{key}", value]
    preflight = Preflight()
    try:
        code = run(["fit", *words], preflight=preflight)
    except ChecksDone:
        code = 0
    if not preflight.checks:
        return code or 1
    if not preflight.first:  # every process checks, one says it
        return int(any(check.passed is False for check in preflight.checks))
    if args.json:
        print(json.dumps([asdict(check) for check in preflight.checks], indent=2))
    else:
        _print(preflight.checks)
    return int(any(check.passed is False for check in preflight.checks))


def _print(checks: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("check", "", "what was found", title="before the first step", title_justify="left")
    for check in checks:
        mark = {True: "[green]passed[/]", False: "[red]FAILED[/]", None: "-"}[check.passed]
        table.add_row(check.name, mark, check.detail)
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120).print(table)


COMMAND = Command(
    name="check",
    summary="prove positions, loss, documents, attention and data of a recipe before its first step",
    add_arguments=_add_arguments,
    run=_run,
)
