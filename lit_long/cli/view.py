"""``lit-long view``: one training example of instruction data as the model gets it, with what counts in colour."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lit_long.cli.command import Command

if TYPE_CHECKING:
    from lit_long.data.instruct.data import InstructData


def add_arguments(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument(
        "--config", action="append", required=True, metavar="YAML", help="recipe; several are laid over"
    )
    parser.add_argument("--source", help="name of a source of the recipe (default: the first with chats)")
    parser.add_argument("--example", type=int, default=0, metavar="N", help="number of the example")
    parser.add_argument("--tokens", type=int, default=2000, metavar="N", help="show at most so many, from both ends")
    parser.add_argument("--json", action="store_true", help="print segments with their weights as JSON")


def run(args: Namespace) -> int:
    """Print the example; counts on stderr."""
    import json
    import sys

    from lit_long.data.instruct.view import example_of, painted

    data, tokenizer = _data(args.config)
    example = example_of(data, tokenizer, source=args.source, number=args.example)
    if args.json:
        print(json.dumps(example.plain(), ensure_ascii=False, indent=1))
        return 0
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(painted(example, at_most=args.tokens))
    print(example.summary, file=sys.stderr)
    return 0


def _data(configs: list[str]) -> "tuple[InstructData, str | None]":
    """The InstructData of a recipe, and the recipe's tokenizer.

    Raises:
        UserError: no such file, no YAML, or another DataModule.
    """
    from pathlib import Path

    import yaml
    from jsonargparse import ArgumentError, ArgumentParser

    from lit_long.data.instruct.data import InstructData
    from lit_long.errors import UserError

    recipe: dict[str, Any] = {}
    for config in configs:
        try:
            content = yaml.safe_load(Path(config).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"--config {config}: {str(error).splitlines()[0]}") from error
        recipe = _laid_over(recipe, content)
    data, model = recipe.get("data") or {}, recipe.get("model") or {}
    kind = str(data.get("class_path", "")).rpartition(".")[2]
    if kind != "InstructData":
        raise UserError(f"--config: data.class_path is {data.get('class_path')!r}; view shows InstructData")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(InstructData, "data")
    try:
        found = parser.instantiate_classes(parser.parse_object({"data": data.get("init_args") or {}}))
    except ArgumentError as error:
        cause = error.__cause__
        raise (cause if isinstance(cause, UserError) else UserError(str(error))) from error
    return found.data, model.get("tokenizer") or model.get("model")


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _laid_over(merged[key], value) if both else value
    return merged


COMMAND = Command(
    name="view",
    summary="one training example of instruction data, with what counts in colour",
    add_arguments=add_arguments,
    run=run,
)
