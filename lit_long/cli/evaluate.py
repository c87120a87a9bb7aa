"""``lit-long evaluate``: loss by position of one or several models on held-out long documents."""

import argparse
import re
from pathlib import Path

from lit_long.cli.command import Command
from lit_long.cli.results import show_results
from lit_long.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_LEAST_LENGTH = 128


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="a Hugging Face folder, a Hub id or a lit-long checkpoint (*.ckpt); the name is used in tables and files; "
        "MODEL#abf:base=500000, MODEL#linear: with other positions, untrained",
    )
    parser.add_argument("--corpus", required=True, metavar="DIR", help="token corpus made by 'lit-long prepare'")
    parser.add_argument("--split", default="held_out", help="split of the corpus (default: %(default)s)")
    parser.add_argument("--length", type=int, metavar="N", help="tokens per window; of a suite, the longest prompt")
    parser.add_argument("--max-length", type=int, metavar="N", dest="length", help="the same")
    parser.add_argument("--base", metavar="MODEL", help="reference that the other models are compared with")
    parser.add_argument(
        "--suite", choices=("quick", "paper", "full"), help="several evaluations in one report (docs/evaluation.md)"
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        metavar="TASK",
        help="instead of a suite's: loss, retrieval, first_sentence, ruler, long_qa, zero_scrolls, l_eval, short, "
        "safety",
    )
    parser.add_argument("--data", metavar="DIR", help="folder of local data sets for a suite (default: the Hub)")
    parser.add_argument("--windows", type=int, default=32, metavar="N", help="number of windows (default: %(default)s)")
    parser.add_argument(
        "--native", type=int, metavar="N", help="native context length (default: the smallest that a model reports)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the windows (default: %(default)s)")
    parser.add_argument(
        "--first-token", type=int, metavar="ID", help="put this token first in every window, e.g. the model's BOS"
    )
    parser.add_argument(
        "--no-context-gain", action="store_true", help="leave out the truncated-context control (about 2/3 of the time)"
    )
    parser.add_argument(
        "--allow-beyond", action="store_true", help="also a length that is beyond the window of every model"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="windows per forward (default: as many as make 16,384 tokens)"
    )
    parser.add_argument("--device", default="auto", help="torch device (default: cuda if there is one, else cpu)")
    parser.add_argument(
        "--output", default="runs/evaluation", metavar="DIR", help="folder for the results (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print report.json to stdout, and nothing else")


def parse_models(arguments: list[str], length: int | None = None) -> list[tuple[str, str]]:
    """Split ``[NAME=]MODEL`` into (name, model) pairs; the default name is the last part of the path.

    Lightning names checkpoints ``epoch=0-step=100.ckpt``: an argument that exists as a path, or has a path separator
    or ``#`` before its first ``=``, carries no name.

    Args:
        arguments: what the user wrote.
        length: context length of models with other positions (``MODEL#abf``) that name none.

    Raises:
        UserError: Two models share a name, or a name is unusable as a file name.
    """
    pairs: list[tuple[str, str]] = []
    for argument in arguments:
        name, separator, model = argument.partition("=")
        if not separator or "/" in name or "#" in name or Path(argument).exists():
            model = argument
            stem = Path(argument.partition(":")[0].rstrip("/") if "#" in argument else argument.rstrip("/")).name
            stem = stem.removesuffix(".ckpt")
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("-._") or "model"
        if not _NAME.fullmatch(name) or not model:
            raise UserError(f"'{argument}' is not [NAME=]MODEL: a name has letters, digits, '.', '_' and '-' only.")
        if name in dict(pairs):
            raise UserError(
                f"Two models are called '{name}' ({dict(pairs)[name]} and {model}). Name them apart: NAME=MODEL."
            )
        pairs.append((name, model if length is None or "#" not in model else _at(model, length)))
    return pairs


def _at(model: str, length: int) -> str:
    from lit_long.model.variant import parse_variant

    return parse_variant(model).at(length)


def _check(args: argparse.Namespace) -> None:
    if args.length < _LEAST_LENGTH:
        raise UserError(f"--length {args.length}: positions need windows of at least {_LEAST_LENGTH} tokens.")
    for option in ("windows", "native", "batch_size"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} {value}: must be at least 1.")
    for option in ("seed", "first_token"):
        value = getattr(args, option)
        if value is not None and value < 0:
            raise UserError(f"--{option.replace('_', '-')} {value}: must not be negative.")


def _run(args: argparse.Namespace) -> int:
    if args.base is not None:
        args.models = [f"base={args.base}", *args.models]
    if args.length is None:
        raise UserError("--length N is missing: tokens of a window, or with --suite of the longest prompt.")
    models = parse_models(args.models, args.length)
    _check(args)
    if args.suite or args.tasks:
        from lit_long.cli.suite import SUITES, Asked, run_suite

        asked = Asked(
            models=[f"{name}={model}" for name, model in models],
            corpus=args.corpus,
            split=args.split,
            length=args.length,
            quick=args.suite == "quick",
            windows=args.windows,
            seed=args.seed,
            device=args.device,
            data=args.data,
            allow_beyond=args.allow_beyond,
            first_token=args.first_token,
        )
        return run_suite(asked, args.tasks or SUITES[args.suite], Path(args.output), as_json=args.json)

    import torch

    from lit_long.data import TokenCorpus
    from lit_long.evaluation.battery import NamedModel, evaluate_models
    from lit_long.evaluation.plot import write_plots
    from lit_long.evaluation.progress import TerminalProgress
    from lit_long.evaluation.report import to_markdown, write_report
    from lit_long.evaluation.windows import take_windows
    from lit_long.model import load_for_inference

    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: not usable on this machine ({str(error).splitlines()[0]}).") from error
    corpus = TokenCorpus(args.corpus, split=args.split)
    windows = take_windows(corpus, args.length, args.windows, args.seed, first_token=args.first_token)
    output = Path(args.output)
    with TerminalProgress() as progress:
        taken = len(windows.ids)
        fewer = f" ({args.windows} asked for; no more fit without overlap)" if taken < args.windows else ""
        progress.note(
            f"{taken} windows of {windows.length:,} tokens{fewer} from {windows.used_documents} of "
            f"{windows.long_documents} long documents; {windows.short_documents} shorter documents skipped"
        )
        evaluation = evaluate_models(
            [NamedModel(name, model) for name, model in models],
            windows,
            load=load_for_inference,
            raw_folder=output / "raw",
            progress=progress,
            native_length=args.native,
            context_control=not args.no_context_gain,
            batch_size=args.batch_size,
            device=device,
            allow_beyond=args.allow_beyond,
            corpus={"path": str(args.corpus), "name": corpus.name, "split": args.split, "info": corpus.info},
        )
    content, files = write_report(evaluation, output)
    files += write_plots(evaluation, output)
    show_results(content, lambda: to_markdown(evaluation), [*files, output / "raw"], as_json=args.json)
    return 0


COMMAND = Command(
    name="evaluate",
    summary="loss by position and truncated-context control on held-out long documents",
    add_arguments=_add_arguments,
    run=_run,
)
