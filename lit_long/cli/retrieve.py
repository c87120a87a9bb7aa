"""``lit-long retrieve``: what models find in long texts, by length and depth."""

import argparse
from pathlib import Path

from lit_long.cli.command import Command
from lit_long.cli.evaluate import parse_models
from lit_long.cli.results import show_results
from lit_long.errors import UserError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models", nargs="+", metavar="[NAME=]MODEL", help="a Hugging Face folder, a Hub id or a lit-long checkpoint"
    )
    parser.add_argument("--text", nargs="+", default=[], metavar="FILE", help="texts to hide things in (.txt, .md)")
    parser.add_argument("--corpus", metavar="DIR", help="instead: a token corpus of 'lit-long prepare'")
    parser.add_argument("--split", default="held_out", help="split of the corpus (default: %(default)s)")
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=["needle"],
        metavar="TASK",
        help="passkey, needle, needles (one at each depth of one text, read once), first_sentence, multi_key, "
        "multi_value, multi_query, variable_tracking, common_words, "
        "frequent_word; ruler: the last six (default: needle)",
    )
    parser.add_argument("--lengths", type=int, nargs="+", required=True, metavar="N", help="tokens of the prompts")
    parser.add_argument("--depths", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0], metavar="D")
    parser.add_argument("--samples", type=int, default=4, metavar="N", help="probes a cell (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the probes (default: %(default)s)")
    parser.add_argument("--first-token", type=int, metavar="ID", help="put this token first, e.g. the model's BOS")
    parser.add_argument(
        "--no-control", action="store_true", help="leave out the probes with nothing hidden (half the work)"
    )
    parser.add_argument("--allow-beyond", action="store_true", help="also lengths beyond a model's window")
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer, where the first model's folder has none")
    parser.add_argument("--device", default="auto", help="torch device (default: cuda if there is one, else cpu)")
    parser.add_argument("--output", default="runs/retrieval", metavar="DIR", help="results (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print retrieval.json to stdout, and nothing else")


def _run(args: argparse.Namespace) -> int:
    pairs = parse_models(args.models, max(args.lengths))
    if bool(args.text) == bool(args.corpus):
        raise UserError("Give --text FILE ... or --corpus DIR, the text to hide things in, and not both.")

    import torch

    from lit_long.evaluation.progress import TerminalProgress
    from lit_long.evaluation.raw_store import model_key
    from lit_long.evaluation.retrieval.grid import GridSpec, retrieval_grid
    from lit_long.evaluation.retrieval.report import to_json, to_markdown, write_report
    from lit_long.evaluation.retrieval.tasks import RULER
    from lit_long.model import load_for_inference
    from lit_long.model.tokenizer import load_tokenizer

    tasks = [task for name in args.tasks for task in (RULER if name == "ruler" else (name,))]
    spec = GridSpec(
        tasks=tuple(dict.fromkeys(tasks)),
        lengths=tuple(dict.fromkeys(args.lengths)),
        depths=tuple(dict.fromkeys(args.depths)),
        samples=args.samples,
        seed=args.seed,
        first=args.first_token,
        control=not args.no_control,
    )
    output = Path(args.output)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    results = {}
    with TerminalProgress() as progress:
        for name, path in pairs:
            haystack = _haystack(args, load_tokenizer(args.tokenizer or path))
            loaded = load_for_inference(path)
            loaded.model.to(torch.device(device))
            progress.start(name, spec.tokens)
            results[name] = retrieval_grid(
                loaded.model,
                haystack,
                spec,
                rows_file=output / "raw" / f"{name}.jsonl",
                model_key=model_key(path),
                allow_beyond=args.allow_beyond,
                progress=progress.advance,
            )
            del loaded
    files = write_report(results, spec, haystack.name, output)
    asked = (results, spec, haystack.name)
    show_results(to_json(*asked), lambda: to_markdown(*asked), [*files, output / "raw"], as_json=args.json)
    return 0


def _haystack(args: argparse.Namespace, tokenizer: object):  # type: ignore[no-untyped-def]
    from lit_long.evaluation.retrieval.haystack import Haystack

    if args.corpus:
        from lit_long.data import TokenCorpus
        from lit_long.data.tokenizer import tokenizer_fingerprint

        corpus = TokenCorpus(args.corpus, args.split)
        corpus.check_tokenizer(tokenizer_fingerprint(tokenizer), str(getattr(tokenizer, "name_or_path", "")))
        return Haystack.of_corpus(corpus, tokenizer)
    texts = []
    for name in args.text:
        try:
            texts.append(Path(name).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--text {name}: {error}") from error
    return Haystack.of_texts(texts, tokenizer, name=", ".join(Path(name).stem for name in args.text))


COMMAND = Command(
    name="retrieve",
    summary="what models find in long texts: needles, keys, chains, by length and depth",
    add_arguments=_add_arguments,
    run=_run,
)
