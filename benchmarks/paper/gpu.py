"""The paper's studies on one GPU, in pieces of a few minutes: positions on SmolLM2-135M, curricula from scratch.

    python benchmarks/paper/gpu.py prepare TEXTS                     # corpora of all books, manuals and code
    python benchmarks/paper/gpu.py arm abf --minutes 9               # abf, rope, pi, xpos_abf; again: it goes on
    python benchmarks/paper/gpu.py measure abf                       # also before it is finished
    python benchmarks/paper/gpu.py curriculum switch_40 --minutes 9  # 32k, switch_40, switch_80, switch_20
    python benchmarks/paper/gpu.py next abf rope pi xpos_abf --minutes 9   # whatever of these is to be done next
    python benchmarks/paper/report.py                                # docs/evidence.md from all results

Each of them writes benchmarks/results/paper_gpu_ARM.json (``--results``): what was really trained, on what, how fast,
by which commands, and what was measured. ``--tokens`` is the budget of an arm (one learning-rate schedule over it, so
all pieces name the same), ``--set KEY=VALUE`` anything that ``lit-long fit`` takes as ``--KEY=VALUE``, ``--tiny 128`` a
trial anywhere that means nothing. Model: what ``make smollm2`` makes.

**A GPU that is lent without network, for half an hour, ten minutes a command, 64 MiB a transfer.** Checkpoints (1.6 GB)
end with the machine, so an arm must be trained and measured in one loan; arms of different loans are compared by their
results. Position arms first, one or two a loan: ABF and RoPE, then PI and xPos-ABF, then the curricula. Before the
loan, where the repository is (model, texts and the wheels that the machine lacks go into six parts of 44 MiB in
``runs``, which git ignores):

    mkdir -p runs/stage/wheels && ln -sn "$PWD/.cache/smollm2" runs/stage/model && ln -sn TEXTS runs/stage/texts
    python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \\
        --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \\
        -d runs/stage/wheels datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 jsonargparse==4.53.0 \\
        docstring_parser==0.18.0 typeshed_client==2.14.0 zstandard==0.25.0
    python3 benchmarks/paper/parts.py pack runs/stage runs/parts; ls runs/parts

On the machine, a call a line, without a pause (an idle machine is taken back). First one call for each part, which
travels with it (runs/parts/00, 01, ...); then the set-up with two minutes of training that tell the speed; then the
last line as often as there is time, with as many minutes as are left, never more than 9. ``$OUT`` is the folder that
comes back after each call:

    mkdir -p /tmp/parts && cp runs/parts/* /tmp/parts/
    python3 benchmarks/paper/parts.py unpack /tmp/parts /tmp/stage && python3 -m pip install -q --no-index --no-deps \\
        --target /tmp/site /tmp/stage/wheels/*.whl && export PYTHONPATH=/tmp/site:$PWD:$PWD/hub HF_HUB_OFFLINE=1 && \\
        G="python3 benchmarks/paper/gpu.py" && O="--work /tmp/work --model /tmp/stage/model" && \\
        $G prepare /tmp/stage/texts $O && $G arm abf --minutes 2 $O --results $OUT
    export PYTHONPATH=/tmp/site:$PWD:$PWD/hub HF_HUB_OFFLINE=1; python3 benchmarks/paper/gpu.py next abf rope pi \\
        xpos_abf --minutes 9 --needles 4 --work /tmp/work --model /tmp/stage/model --results $OUT

A piece says how many minutes its arm still takes. If the loan has fewer left (less two for measuring), begin anew with
a smaller budget: ``rm -r /tmp/work/gpu_abf``, then ``--tokens 26214400`` on the last line, the same for all arms that
are to be compared. If a kernel fails: ``--set model.attention_backend=sdpa``. In later loans name the arms that are
still missing. Afterwards copy paper_gpu_*.json from ``$OUT`` to benchmarks/results, run report.py, and commit both.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from gpu_arms import CURRICULA, POSITIONS, GpuArm, gpu_arm
from report_tables import RESULTS, ROOT

BEGAN = time.monotonic()  # minutes are counted from here: imports are of the piece, too
LEAST = 60  # seconds that are worth starting something for


def _arm(args: argparse.Namespace, name: str) -> GpuArm:
    return gpu_arm(name, args.work, model=args.model, tokens=args.tokens, tiny=args.tiny, settings=args.set)


def _command(args: argparse.Namespace, arm: GpuArm, *words: str) -> str:
    """As it is to be repeated elsewhere: without this machine's folders."""
    words = (*words, *(("--tokens", str(arm.steps * arm.tokens_per_step)) if args.tokens else ()))
    words += ("--tiny", str(args.tiny)) if args.tiny > 1 else ()
    words += tuple(word for setting in args.set for word in ("--set", setting))
    return " ".join(("python benchmarks/paper/gpu.py", *words))


def _prepare(args: argparse.Namespace) -> None:
    from texts import SOURCES, prepare_all

    prepare_all(args.texts, args.work, tokenizer=str(args.model), shares=dict.fromkeys(SOURCES, 1.0))


def _train(args: argparse.Namespace) -> None:
    from gpu_measure import write_result
    from gpu_pieces import train_piece

    arm = _arm(args, args.name)
    command = _command(args, arm, args.action, args.name, "--minutes", f"{args.minutes:g}")
    train_piece(arm, 60 * args.minutes - (time.monotonic() - BEGAN), command)
    write_result(arm, args.results, args.base)


def _measure(args: argparse.Namespace) -> None:
    from gpu_measure import measure_arm, write_result

    arm = _arm(args, args.name)
    words = ["measure", args.name, "--windows", str(args.windows)]
    words += ["--needles", str(args.needles)] if args.needles else []
    command = _command(args, arm, *words)
    measure_arm(arm, args.work, model=args.model, windows=args.windows, needles=args.needles, command=command)
    write_result(arm, args.results, args.base)


def _next(args: argparse.Namespace) -> None:
    """Each thing in a process of its own: what one leaves on the GPU ends with it."""
    from gpu_pieces import measured_steps, newest

    for name in args.names:
        arm = _arm(args, name)
        while (left := 60 * args.minutes - (time.monotonic() - BEGAN)) > LEAST:
            _, steps = newest(arm)
            if steps < arm.steps:
                action = "arm" if name in POSITIONS else "curriculum"
                _again(args, action, name, "--minutes", f"{left / 60:.2f}")
            elif measured_steps(arm) < steps:
                _again(args, "measure", name, "--windows", str(args.windows), "--needles", str(args.needles))
            else:
                break
    print(f"{(time.monotonic() - BEGAN) / 60:.1f} minutes", flush=True)


def _again(args: argparse.Namespace, *words: str) -> None:
    folders = ["--work", str(args.work), "--model", str(args.model), "--results", str(args.results)]
    folders += ["--base", args.base]
    budget = ["--tokens", str(args.tokens)] if args.tokens else []
    settings = [word for setting in args.set for word in ("--set", setting)]
    line = [sys.executable, __file__, *words, *folders, *budget, "--tiny", str(args.tiny), *settings]
    if subprocess.run(line).returncode:
        sys.exit(f"gpu.py {' '.join(words)} failed; its message is above")


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--work", type=Path, default=ROOT / "runs" / "paper_gpu", help="corpora and runs")
    common.add_argument("--model", type=Path, default=ROOT / ".cache" / "smollm2", help="base, and tokenizer of all")
    common.add_argument("--base", default="SmolLM2-135M-Instruct, dequantised from 4 bits", help="its name in results")
    common.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    common.add_argument("--tokens", type=int, help="budget of an arm; default: 52 million, of a curriculum 105")
    common.add_argument("--tiny", type=int, default=1, help="divide all lengths by this: a trial that means nothing")
    common.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="setting of lit-long fit")
    timed = argparse.ArgumentParser(add_help=False)
    timed.add_argument("--minutes", type=float, default=9, help="stop and save when they are over")
    measured = argparse.ArgumentParser(add_help=False)
    measured.add_argument("--windows", type=int, default=16, help="of each source")
    measured.add_argument("--needles", type=int, default=0, help="probes of each length and depth; 0: none")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    prepare = actions.add_parser("prepare", parents=[common], help="texts to corpora")
    prepare.add_argument("texts", type=Path, metavar="TEXTS", help="folder of books, manuals and code as .jsonl.zst")
    for action, arms in (("arm", POSITIONS), ("curriculum", CURRICULA)):
        train = actions.add_parser(action, parents=[common, timed], help="train a piece of an arm")
        train.add_argument("name", choices=list(arms))
    measure = actions.add_parser("measure", parents=[common, measured], help="measure an arm as it is")
    measure.add_argument("name", choices=[*POSITIONS, *CURRICULA])
    following = actions.add_parser("next", parents=[common, timed, measured], help="train and measure, arm by arm")
    following.add_argument("names", nargs="+", choices=[*POSITIONS, *CURRICULA], metavar="ARM")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    for name in ("work", "model", "results", "texts"):
        if hasattr(args, name):
            setattr(args, name, getattr(args, name).resolve())
    os.chdir(ROOT)  # recipes name files of the repository
    from lit_long.errors import UserError

    actions = {"prepare": _prepare, "arm": _train, "curriculum": _train, "measure": _measure, "next": _next}
    try:
        actions[args.action](args)
    except UserError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
