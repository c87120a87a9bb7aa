"""``lit-long prepare``: raw text to a token corpus, and the lengths of a corpus' documents as a report."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lit_long.cli.command import Command

if TYPE_CHECKING:
    from lit_long.data.prepare import PrepareConfig, PrepareResult

_FLAGS = ("tokenizer", "output", "name", "license", "held_out", "held_out_share", "max_bad_rows", "processes")
_SOURCE_FLAGS = ("text_field", "id_field", "kind")


def add_arguments(parser: ArgumentParser) -> None:
    """Options: a YAML file, or plain flags for one source; flags win over the file."""
    from argparse import SUPPRESS

    parser.add_argument("--config", help="YAML with tokenizer, sources, output, ... (docs/data/prepare.md)")
    parser.add_argument("--source", help="one file or directory (.txt .md .jsonl[.gz|.zst] .parquet), or hub:DATASET")
    parser.add_argument("--kind", help="with --source: files, repository or repositories", default=SUPPRESS)
    parser.add_argument("--text-field", help="with --source: field of the text (default: text)", default=SUPPRESS)
    parser.add_argument(
        "--id-field",
        help="with --source: field of the document's id (default: id); none: number the documents by their place",
        default=SUPPRESS,
    )
    parser.add_argument("--tokenizer", help="Hub id or folder of a fast tokenizer", default=SUPPRESS)
    parser.add_argument("--output", help="corpus folder to write; with --report: where the report goes")
    parser.add_argument("--name", help="name of the corpus in reports", default=SUPPRESS)
    parser.add_argument("--license", help="licence of the whole, if it has one", default=SUPPRESS)
    parser.add_argument(
        "--held-out", nargs="*", metavar="ID", help="ids of documents that training never sees", default=SUPPRESS
    )
    parser.add_argument(
        "--held-out-share", type=float, metavar="SHARE", help="share of documents held out by id hash", default=SUPPRESS
    )
    parser.add_argument("--max-bad-rows", type=int, metavar="N", help="rows that may be left out", default=SUPPRESS)
    parser.add_argument("--processes", type=int, metavar="N", help="default: all cores", default=SUPPRESS)
    parser.add_argument("--discard-unfinished", action="store_true", help="do not go on with an earlier run's work")
    parser.add_argument(
        "--executor", choices=["local"], help="run as datatrove tasks, as on many machines (docs/data/many_machines.md)"
    )
    parser.add_argument("--tasks", type=int, metavar="N", help="with --executor: number of tasks", default=SUPPRESS)
    parser.add_argument("--report", metavar="CORPUS", help="do not prepare; report the document lengths of a corpus")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: Namespace) -> int:
    """Prepare the corpus, with progress on stderr and the counts on stdout; or report on one."""
    if args.report:
        return _report(args)
    import json
    import sys
    from dataclasses import asdict

    from lit_long.cli.prepare_progress import shown
    from lit_long.data.prepare import prepare

    config = read_config(args)
    try:
        with shown() as progress:
            if args.executor:
                result = _by_tasks(config, args)
            else:
                result = prepare(config, progress, discard_unfinished=args.discard_unfinished, cleaning=_cleaning)
    except KeyboardInterrupt:
        print("lit-long: what is done is kept; the same command goes on from there", file=sys.stderr)
        raise
    print(json.dumps(asdict(result), indent=2) if args.json else _summary(result))
    return 0


def _by_tasks(config: "PrepareConfig", args: Namespace) -> "PrepareResult":
    from dataclasses import replace

    from lit_long.data.cluster import launch, prepare_executors
    from lit_long.data.prepare import finish

    tasks = getattr(args, "tasks", config.cores)
    one = replace(config, processes=1)  # the tasks are the processes
    launch(prepare_executors(one, kind="local", tasks=tasks, workers=config.cores), _cleaning)
    return replace(finish(config), reused=False)


def _cleaning(stage: str, done: int, tasks: int) -> None:
    import sys

    print(f"{stage}: {done} of {tasks} tasks", file=sys.stderr)


def _summary(result: "PrepareResult") -> str:
    lines = [f"{'up to date' if result.reused else 'wrote'}: {result.output}"]
    for name, count in result.splits.items():
        lines.append(
            f"  {name}: {count.documents:,} documents, {count.tokens:,} tokens "
            f"({count.characters / max(count.tokens, 1):.2f} characters a token, longest document {count.longest:,})"
        )
    if result.found_items:
        lines.append(f"  {result.found_items:,} items of work were done by an earlier run")
    if result.bad_rows:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in result.bad_rows.items())
        lines.append(f"  left out: {sum(result.bad_rows.values()):,} bad rows ({kinds}); see bad_rows.jsonl there")
    for reason, documents in result.excluded.items():
        lines.append(f"  left out: {documents:,} documents ({reason}); see excluded.jsonl there")
    for reason, files in result.skipped_files.items():
        lines.append(f"  left out: {files:,} files ({reason})")
    return "\n".join(lines)


def _report(args: Namespace) -> int:
    import json
    from pathlib import Path

    from lit_long.data.length_report import length_report, markdown, write_report

    report = length_report(args.report)
    files = write_report(report, Path(args.output or args.report))
    print(json.dumps(report, indent=2) if args.json else markdown(report))
    if not args.json:
        print("wrote: " + ", ".join(map(str, files)))
    return 0


def read_config(args: Namespace) -> "PrepareConfig":
    """What a configuration file and flags ask for.

    Raises:
        UserError: no such file, no YAML, or settings that are missing or wrong.
    """
    import jsonargparse
    import yaml

    from lit_long.data.prepare import PrepareConfig
    from lit_long.errors import UserError

    values: dict[str, Any] = {}
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
    values |= _source(args)
    values |= {key: value for key in _FLAGS if (value := getattr(args, key, None)) is not None}
    where = f"{args.config}: " if args.config else ""
    if missing := [key for key in ("tokenizer", "sources", "output") if not values.get(key)]:
        raise UserError(
            f"{where}missing {', '.join(missing)}; give --config CONFIG.yaml, or --source, --tokenizer, --output"
        )
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PrepareConfig, "prepare")
    try:
        config: PrepareConfig = parser.instantiate_classes(parser.parse_object({"prepare": values})).prepare
    except UserError:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        raise UserError(f"{where}{str(error).replace('prepare.', '')}") from error
    return config


def _source(args: Namespace) -> dict[str, Any]:
    """``sources`` as the flags say."""
    from lit_long.errors import UserError

    given = {key: getattr(args, key) for key in _SOURCE_FLAGS if hasattr(args, key)}
    if not args.source:
        if given:
            flags = ", ".join("--" + key.replace("_", "-") for key in given)
            raise UserError(f"{flags}: only with --source; in a --config file it is a key of each source")
        return {}
    if given.get("id_field") == "none":
        given["id_field"] = None
    place = {"hub": args.source[4:]} if args.source.startswith("hub:") else {"path": args.source}
    return {"sources": [place | given]}


COMMAND = Command(
    name="prepare", summary="tokenise raw documents into a token corpus", add_arguments=add_arguments, run=run
)
