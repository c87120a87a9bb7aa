"""``lit-long benchmark``: long questions, short tasks and safety of several models, beside the paper's numbers."""

import argparse
from pathlib import Path

from lit_long.cli.command import Command
from lit_long.cli.evaluate import parse_models
from lit_long.cli.results import show_results
from lit_long.errors import UserError


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]MODEL",
        help="a Hugging Face folder, a Hub id or a lit-long checkpoint; differences are to the first one",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="TASK",
        help="scrolls, zero_scrolls, l_eval (or one task: scrolls/qasper); paper (short tasks), truthfulqa, "
        "lm_eval/NAME; toxigen, bold; red_team",
    )
    parser.add_argument(
        "--max-length", type=int, nargs="+", default=[], metavar="N", help="prompt caps of long tasks, in tokens"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of local data sets (default: the Hub)")
    parser.add_argument("--split", metavar="NAME", help="split of long tasks; test makes a ZeroSCROLLS submission")
    parser.add_argument("--limit", type=int, metavar="N", help="most questions a task (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of that draw (default: %(default)s)")
    parser.add_argument("--chat", action="store_true", help="talk to the model through its chat template")
    parser.add_argument("--no-gold-loss", action="store_true", help="leave out the loss of gold answers")
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer, where the model's folder has none")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="of short tasks and safety prompts")
    parser.add_argument(
        "--allow-code", action="store_true", help="run programs that the model writes (HumanEval, MBPP); in a sandbox"
    )
    parser.add_argument("--include-path", metavar="DIR", help="further task files of lm-evaluation-harness")
    parser.add_argument("--judge", metavar="MODEL", help="toxicity classifier (default: tomh/toxigen_roberta)")
    parser.add_argument("--toxic-label", default="1", metavar="LABEL", help="its toxic label, name or index")
    parser.add_argument("--attacks", metavar="FILE", help="red team: requests, JSON lines with 'prompt'")
    parser.add_argument("--contexts", metavar="FILE", help="red team: a long text, or JSON lines with 'text'")
    parser.add_argument("--device", default="auto", help="torch device (default: cuda if there is one, else cpu)")
    parser.add_argument("--output", default="runs/benchmarks", metavar="DIR", help="results (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print benchmarks.json to stdout, and nothing else")


def _run(args: argparse.Namespace) -> int:
    pairs = parse_models(args.models, max(args.max_length, default=None))
    for option in ("limit", "batch_size"):
        value = getattr(args, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} {value}: must be at least 1.")
    if args.data and not Path(args.data).is_dir():
        raise UserError(f"--data {args.data}: no such folder.")

    import torch

    from lit_long.evaluation.battery import NamedModel
    from lit_long.evaluation.benchmarks.plan import Options, make_plan
    from lit_long.evaluation.benchmarks.report import to_markdown, write_report
    from lit_long.evaluation.benchmarks.run import run_benchmarks
    from lit_long.evaluation.progress import TerminalProgress
    from lit_long.model import load_for_inference
    from lit_long.model.tokenizer import load_tokenizer

    plan = make_plan(
        args.tasks,
        args.max_length,
        allow_code=args.allow_code,
        attacks=Path(args.attacks) if args.attacks else None,
        contexts=Path(args.contexts) if args.contexts else None,
    )
    options = Options(
        data=Path(args.data) if args.data else None,
        split=args.split,
        limit=args.limit,
        seed=args.seed,
        chat=args.chat,
        gold_loss=not args.no_gold_loss,
        batch_size=args.batch_size,
        allow_code=args.allow_code,
        include_path=args.include_path,
        judge=args.judge,
        toxic_label=int(args.toxic_label) if args.toxic_label.isdigit() else args.toxic_label,
        device=("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device,
    )
    output = Path(args.output)
    with TerminalProgress() as progress:
        results = run_benchmarks(
            [NamedModel(name, path) for name, path in pairs],
            plan,
            options,
            load=load_for_inference,
            load_tokenizer=lambda path: load_tokenizer(args.tokenizer or path),
            output=output,
            progress=progress,
        )
    content, files = write_report(results, options, output)
    show_results(content, lambda: to_markdown(results), [*files, output / "raw"], as_json=args.json)
    return 0


COMMAND = Command(
    name="benchmark",
    summary="long questions, short tasks and safety, beside the paper's numbers",
    add_arguments=_add_arguments,
    run=_run,
)
