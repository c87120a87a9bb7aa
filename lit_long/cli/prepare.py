"""``lit-long prepare``: raw text to a token corpus."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from lit_long.cli.command import Command

if TYPE_CHECKING:
    from lit_long.data.prepare import PrepareConfig


def add_arguments(parser: ArgumentParser) -> None:
    """Options: a YAML file, or plain flags for one source; flags win over the file."""
    parser.add_argument("--config", help="YAML with tokenizer, sources, output, held_out, name, license")
    parser.add_argument("--source", help="one file or directory (.txt .md .jsonl[.gz|.zst])")
    parser.add_argument("--tokenizer", help="Hub id or folder of a fast tokenizer")
    parser.add_argument("--output", help="corpus folder to write")
    parser.add_argument("--text-field", default="text", help="field of the text in JSON lines, with --source")
    parser.add_argument("--held-out", nargs="*", metavar="ID", help="ids of documents that training never sees")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: Namespace) -> int:
    """Prepare the corpus, with a progress bar on stderr and the counts on stdout."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from lit_long.data.prepare import prepare

    config = _config(args)
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True
    ) as bar:
        done = 0
        task = bar.add_task("tokenising", total=None)

        def progress(characters: int) -> None:
            nonlocal done
            done += characters
            bar.update(task, description=f"tokenising: {done / 1e6:,.1f} M characters")

        result = prepare(config, progress)
    if args.json:
        print(json.dumps(asdict(result), indent=2))
        return 0
    print(f"{'up to date' if result.reused else 'wrote'}: {result.output}")
    for name, count in result.splits.items():
        print(
            f"  {name}: {count.documents:,} documents, {count.tokens:,} tokens "
            f"({count.characters / max(count.tokens, 1):.2f} characters a token, longest document {count.longest:,})"
        )
    return 0


def _config(args: Namespace) -> "PrepareConfig":
    import jsonargparse
    import yaml

    from lit_long.data.prepare import PrepareConfig
    from lit_long.errors import UserError

    values: dict[str, object] = {}
    if args.config:
        try:
            with open(args.config, encoding="utf-8") as file:
                values = yaml.safe_load(file) or {}
        except OSError as error:
            raise UserError(f"--config {args.config}: {error.strerror}") from error
        except yaml.YAMLError as error:
            raise UserError(f"--config {args.config}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {args.config}: expected keys and values, found a {type(values).__name__}")
    if args.source:
        values["sources"] = [{"path": args.source, "text_field": args.text_field}]
    for key in ("tokenizer", "output", "held_out"):
        if getattr(args, key) is not None:
            values[key] = getattr(args, key)
    where = f"{args.config}: " if args.config else ""
    if missing := [key for key in ("tokenizer", "sources", "output") if not values.get(key)]:
        raise UserError(
            f"{where}missing {', '.join(missing)}; give --config CONFIG.yaml, or --source, --tokenizer, --output"
        )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PrepareConfig, "prepare")
    try:
        config: PrepareConfig = parser.instantiate_classes(parser.parse_object({"prepare": values})).prepare
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(f"{where}{str(error).replace('prepare.', '')}") from error
    return config


COMMAND = Command(
    name="prepare", summary="tokenise raw documents into a token corpus", add_arguments=add_arguments, run=run
)
