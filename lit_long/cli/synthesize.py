"""``lit-long synthesize``: question-answer pairs about long documents, made and checked by a chat model."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lit_long.cli.command import Command

if TYPE_CHECKING:
    from lit_long.synthesis import SynthesizeConfig


def add_arguments(parser: ArgumentParser) -> None:
    """Options: a YAML file; a few keys of it can be given as flags, which win."""
    from argparse import SUPPRESS

    parser.add_argument(
        "--config", required=True, help="YAML with tokenizer, sources, generator, ... (docs/synthesis.md)"
    )
    parser.add_argument("--output", help="folder to write", default=SUPPRESS)
    parser.add_argument("--shard", metavar="I/N", help="this process's share of the documents: 0/16 to 15/16")
    parser.add_argument("--max-documents", type=int, metavar="N", help="use the first N documents", default=SUPPRESS)
    parser.add_argument(
        "--report", action="store_true", help="do not ask; write the pairs and the report of what there is"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: Namespace) -> int:
    """Make the pairs, with progress on stderr and the counts on stdout."""
    import json
    import sys

    from lit_long.cli.synthesize_progress import shown

    config = _config(args)
    if args.report:
        from lit_long.synthesis.output import write_all_pairs
        from lit_long.synthesis.report import write_report

        files = write_all_pairs(config)
        report = write_report(config) | {"output": str(files[0].parent) if files else None}
    else:
        from lit_long.synthesis import synthesize

        try:
            with shown() as progress:
                report = synthesize(config, progress)
        except KeyboardInterrupt:
            print(
                "lit-long: what is done is kept; the same command goes on from there, and with --report it writes the "
                "pairs that there are",
                file=sys.stderr,
            )
            raise
    print(json.dumps(report, indent=2, ensure_ascii=False) if args.json else _summary(report, config.output))
    return 0


def _summary(report: dict[str, Any], output: str) -> str:
    outcomes = report["outcomes"]
    lines = [
        f"wrote: {report['output']}" if report.get("output") else f"no pairs in this shard: {output}",
        f"  {report['questions']:,} questions: " + ", ".join(f"{n:,} {name}" for name, n in outcomes.items()),
    ]
    for what in ("rejected", "skipped"):
        lines += [f"  {what}: {n:,} {reason}" for reason, n in report[what].items()]
    if outcomes["failed"]:
        lines.append("  failed questions are asked again by the same command")
    for what in ("bad_rows", "skipped_files"):
        found = report.get("this_run", {}).get(what, {})
        lines += [f"  left out: {n:,} {what.replace('_', ' ')} ({kind})" for kind, n in found.items()]
    shards = report["shards"]
    if shards["count"] > 1:
        lines.append(f"  counted: {shards['found']} of {shards['count']} shards")
    return "\n".join([*lines, f"  report: {output}/report.md"])


def _config(args: Namespace) -> "SynthesizeConfig":
    import yaml

    from lit_long.errors import UserError
    from lit_long.synthesis import SynthesizeConfig

    try:
        with open(args.config, encoding="utf-8") as file:
            values = yaml.safe_load(file) or {}
    except OSError as error:
        raise UserError(f"--config {args.config}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"--config {args.config}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {args.config}: expected keys and values, found a {type(values).__name__}")
    values |= {key: getattr(args, key) for key in ("output", "max_documents") if hasattr(args, key)}
    if args.shard:
        values["shard"] = _shard(args.shard)
    if missing := [key for key in ("tokenizer", "sources", "output", "generator") if not values.get(key)]:
        raise UserError(f"{args.config}: missing {', '.join(missing)}")
    generator = _instance(*_generator(values.pop("generator"), args.config), "generator", args.config)
    config: SynthesizeConfig = _instance(SynthesizeConfig, values, "", args.config, generator=generator)
    return config


def _generator(values: object, file: str) -> tuple[Any, dict[str, Any]]:
    """The class of the generator, and its keys."""
    from lit_long import synthesis
    from lit_long.errors import UserError

    name = str(values.get("class_path", "")).rpartition(".")[2] if isinstance(values, dict) else ""
    if not isinstance(values, dict) or name not in ("Server", "Local"):
        raise UserError(f"{file}: generator: give class_path: Server or class_path: Local, and its keys beside it")
    keys = {key: value for key, value in values.items() if key not in ("class_path", "init_args")}
    return getattr(synthesis, name), keys | (values.get("init_args") or {})


def _instance(kind: Any, values: dict[str, Any], name: str, file: str, **given: Any) -> Any:
    """``kind`` made of YAML values, whose types and keys are checked; ``given`` is passed on as it is."""
    import jsonargparse

    from lit_long.errors import UserError

    place = name or "synthesize"
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, place, skip=set(given), instantiate=not given)
    try:
        made = parser.instantiate_classes(parser.parse_object({place: values}))[place]
        return kind(**vars(made), **given) if given else made
    except UserError:
        raise
    except (jsonargparse.ArgumentError, ValueError, TypeError) as error:
        text = str(error) if name else str(error).replace("synthesize.", "")
        raise UserError(f"{file}: {text}") from error


def _shard(text: str) -> dict[str, int]:
    from lit_long.errors import UserError

    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise UserError(f"--shard {text}: give I/N, such as 0/16 for the first of sixteen")
    return {"index": int(index), "count": int(count)}


COMMAND = Command(
    name="synthesize",
    summary="make question-answer pairs about long documents with a chat model",
    add_arguments=add_arguments,
    run=run,
)
