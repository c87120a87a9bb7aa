"""All studies of docs/evidence.md, one after the other; what is trained, measured or written already is not done again.

    python benchmarks/paper/run.py TEXTS [--work runs/paper] [--only positions curriculum ...]

TEXTS: a folder with books, manuals and code as .jsonl.zst (column ``text``). Stop it whenever you like; the same
command goes on, a run in its last checkpoint.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# study -> what it is given, so that docs/evidence.md comes out with the windows that it states
STUDIES: dict[str, tuple[str, ...]] = {
    "positions": (),
    "longer": (),
    "beyond": ("--windows", "6", "--samples", "3"),
    "data_mix": ("--windows", "6"),
    "curriculum": ("--windows", "6"),
    "sft": (),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, metavar="TEXTS")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "runs" / "paper")
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    args = parser.parse_args()
    if not (args.work / "code" / "dataset_dict.json").exists():
        _python("texts.py", str(args.texts), str(args.work))
    for study in args.only:
        _python(f"{study}.py", "--work", str(args.work), *STUDIES[study])
        _python("report.py")


def _python(script: str, *words: str) -> None:
    subprocess.run([sys.executable, str(HERE / script), *words], check=True)


if __name__ == "__main__":
    main()
