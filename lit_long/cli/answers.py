"""``lit-long answers``: loss of the right answers of an instruction recipe, with and without the document."""

import argparse

from lit_long.cli.command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="a Hugging Face folder, a Hub id or a lit-long checkpoint; changes are to the first one",
    )
    parser.add_argument(
        "--config", action="append", required=True, metavar="YAML", help="instruction recipe; several are laid over"
    )
    parser.add_argument(
        "--split", choices=("held_out", "train"), default="held_out", help="held out of training, or trained on"
    )
    parser.add_argument(
        "--keep",
        type=int,
        default=256,
        metavar="N",
        help="control: the longest input cut to N tokens, half from each end, so that its document is gone; 0: none",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="first N examples of each source (default: all)")
    parser.add_argument("--device", default="auto", help="torch device (auto: cuda if there is one, else cpu)")
    parser.add_argument("--output", default="runs/answers", metavar="DIR", help="results")
    parser.add_argument("--json", action="store_true", help="print answers.json to stdout, and nothing else")


def _run(args: argparse.Namespace) -> int:
    from pathlib import Path

    import torch

    from lit_long.cli.evaluate import parse_models
    from lit_long.cli.instruct_recipe import read_instruct
    from lit_long.cli.results import show_results
    from lit_long.data.tokenizer import tokenizer_fingerprint
    from lit_long.errors import UserError
    from lit_long.evaluation.chats import examples_of, measure_chats, summarise_chats
    from lit_long.evaluation.chats.report import to_markdown, write_report
    from lit_long.evaluation.progress import TerminalProgress
    from lit_long.evaluation.raw_store import model_key
    from lit_long.model import load_for_inference
    from lit_long.model.tokenizer import load_tokenizer

    pairs = parse_models(args.models)
    if args.keep < 0 or (args.limit is not None and args.limit < 1):
        raise UserError(f"--keep is {args.keep}, it must be 0 or more; --limit is {args.limit}, it must be at least 1.")
    data, tokenizer = read_instruct(args.config)
    examples = examples_of(data, tokenizer, args.split)
    if args.limit is not None:
        sources = dict.fromkeys(example.source for example in examples)
        examples = [e for name in sources for e in [x for x in examples if x.source == name][: args.limit]]
    fingerprint = tokenizer_fingerprint(data.form().tokenizer)
    keep, output, rows = args.keep or None, Path(args.output), {}
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    with TerminalProgress() as progress:
        for name, path in pairs:
            progress.note(f"{name}: loading {path}")
            loaded = load_for_inference(path)
            if tokenizer_fingerprint(load_tokenizer(path)) != fingerprint:
                raise UserError(f"{name}: its tokenizer is not the recipe's, so its answers are other tokens.")
            rows[name] = measure_chats(
                loaded.model.to(device),
                examples,
                keep=keep,
                file=output / "raw" / f"{name}.jsonl",
                model_key=model_key(path),
                name=name,
                progress=progress,
            )
            del loaded
    scores = summarise_chats(rows)
    settings = {"split": args.split, "kept_input_tokens": keep, "limit": args.limit, "models": dict(pairs)}
    content, files = write_report(scores, settings, output)
    page = to_markdown(scores, settings)
    show_results(content, lambda: page, [*files, output / "raw"], as_json=args.json)
    return 0


COMMAND = Command(
    name="answers",
    summary="loss of the right answers of an instruction recipe, with and without the document",
    add_arguments=_add_arguments,
    run=_run,
)
