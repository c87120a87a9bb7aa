"""``lit-long tokenizer-report``: what tokenizers cost on the user's own text."""

from argparse import ArgumentParser, Namespace
from typing import Any

from lit_long.cli.command import Command


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--tokenizer", nargs="+", required=True, metavar="NAME", help="Hub ids or folders")
    parser.add_argument(
        "--source", nargs="+", default=[], metavar="[NAME=]PATH", help="files or directories of text, or hub:DATASET"
    )
    parser.add_argument("--config", help="take the sources of this YAML of lit-long prepare")
    parser.add_argument("--length", type=int, default=32_768, help="context length in tokens")
    parser.add_argument("--megabytes", type=float, default=8.0, help="text of each source, from its beginning")
    parser.add_argument("--output", metavar="DIR", help="write tokenizers.md, .json and .png there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _run(args: Namespace) -> int:
    import json
    from pathlib import Path

    from lit_long.data.tokenizer_report import as_json, markdown, tokenizer_report, write_report

    limit = int(args.megabytes * 1e6)
    report = tokenizer_report(args.tokenizer, _sources(args), length=args.length, max_bytes=limit)
    print(json.dumps(as_json(report), indent=2) if args.json else markdown(report))
    if args.output:
        files = write_report(report, Path(args.output))
        if not args.json:
            print("\nwrote: " + ", ".join(map(str, files)))
    return 0


def _sources(args: Namespace) -> list[Any]:
    from lit_long.data.sources import Source
    from lit_long.errors import UserError

    if bool(args.source) == bool(args.config):
        raise UserError("give --source [NAME=]PATH ..., or --config with the YAML of lit-long prepare, and not both")
    if args.config:
        from lit_long.cli.prepare import add_arguments, read_config

        parser = ArgumentParser()
        add_arguments(parser)
        words = ["--config", args.config, "--tokenizer", args.tokenizer[0], "--output", "none"]
        return list(read_config(parser.parse_args(words)).sources)
    sources = []
    for text in args.source:
        name, equals, place = text.partition("=")
        name, place = (name, place) if equals else (None, text)
        where: dict[str, Any] = {"hub": place[4:]} if place.startswith("hub:") else {"path": place}
        sources.append(Source(name=name, id_field=None, **where))
    return sources


COMMAND = Command(
    name="tokenizer-report",
    summary="compare tokenizers on your text: tokens per word, words in a context, cost of white space",
    add_arguments=_add_arguments,
    run=_run,
)
