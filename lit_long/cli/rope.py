"""``lit-long rope``: what position methods do to a model at a length, before anything is trained."""

from argparse import ArgumentParser, Namespace
from typing import Any

from lit_long.cli.command import Command


def _add_arguments(parser: ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--model", metavar="MODEL", help="a Hugging Face folder or Hub id; only its config is read")
    where.add_argument(
        "--head-dim", type=int, metavar="D", help="rotary dimensions, with --base and --native, without a model"
    )
    parser.add_argument("--base", type=float, default=10_000.0, help="RoPE base of --head-dim (default: %(default)g)")
    parser.add_argument("--native", type=int, default=4096, help="native length of --head-dim (default: %(default)s)")
    parser.add_argument(
        "--method",
        nargs="+",
        default=[],
        metavar="NAME[:OPTION=VALUE,...]",
        help="none, abf, xpos_abf, linear, ntk, yarn, llama3, with options such as abf:base=5e6 (default: all)",
    )
    parser.add_argument("--length", type=int, required=True, help="wanted context in tokens")
    parser.add_argument("--output", metavar="DIR", help="write rope.md, rope.json and rope.png there")
    parser.add_argument("--json", action="store_true", help="print the numbers as JSON")


def _run(args: Namespace) -> int:
    import json
    from pathlib import Path

    from lit_long.rope.comparison import as_json, compare_methods, markdown, plot

    methods = [_method(text) for text in args.method or _all_names()]
    geometry = _geometry(args)
    found = compare_methods(methods, geometry, args.length)
    text = markdown(found, geometry, args.length)
    content = as_json(found, geometry, args.length)
    print(json.dumps(content, indent=2) if args.json else text)
    if args.output:
        folder = Path(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "rope.md").write_text(text)
        (folder / "rope.json").write_text(json.dumps(content, indent=1) + "\n")
        plot(found, methods, geometry, args.length, folder / "rope.png")
        if not args.json:
            print(f"wrote: {folder / 'rope.md'}, {folder / 'rope.json'}, {folder / 'rope.png'}")
    return 0


def _all_names() -> list[str]:
    from lit_long.rope import rope_methods

    return list(rope_methods())


def _method(text: str) -> Any:
    from lit_long.errors import UserError
    from lit_long.rope import rope_method
    from lit_long.rope.registry import parse_options

    name, _, options = text.partition(":")
    try:
        return rope_method(name, **parse_options(options))
    except UserError as error:
        raise UserError(f"--method {text}: {error}") from error


def _geometry(args: Namespace) -> Any:
    from lit_long.rope import RopeGeometry

    if args.head_dim is not None:
        return RopeGeometry(dim=args.head_dim, base=args.base, native_length=args.native)
    from lit_long.model.build import ModelSpec, native_config
    from lit_long.rope import NoScaling

    spec = ModelSpec(
        model=args.model,
        model_config=None,
        revision=None,
        rope=NoScaling(),
        context_length=args.length,
        attention="packed",
        lora=None,
    )
    return RopeGeometry.from_config(native_config(spec).get_text_config())


COMMAND = Command(
    name="rope",
    summary="what position methods do to a model at a length: decay, granularity, config; no training",
    add_arguments=_add_arguments,
    run=_run,
)
