"""``lit-long view``: one training example of instruction data as the model gets it, with what counts in colour."""

from argparse import ArgumentParser, Namespace

from lit_long.cli.command import Command


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

    from lit_long.cli.instruct_recipe import read_instruct
    from lit_long.data.instruct.view import example_of, painted

    data, tokenizer = read_instruct(args.config)
    example = example_of(data, tokenizer, source=args.source, number=args.example)
    if args.json:
        print(json.dumps(example.plain(), ensure_ascii=False, indent=1))
        return 0
    from rich.console import Console

    Console(highlight=False, soft_wrap=True).print(painted(example, at_most=args.tokens))
    print(example.summary, file=sys.stderr)
    return 0


COMMAND = Command(
    name="view",
    summary="one training example of instruction data, with what counts in colour",
    add_arguments=add_arguments,
    run=run,
)
