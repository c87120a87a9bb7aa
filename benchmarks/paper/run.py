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
STUDIES = ("positions", "longer", "beyond", "data_mix", "curriculum", "sft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, metavar="TEXTS")
    parser.add_argument("--work", type=Path, default=HERE.parents[1] / "runs" / "paper")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=STUDIES)
    args = parser.parse_args()
    if not (args.work / "code" / "dataset_dict.json").exists():
        _python("texts.py", str(args.texts), str(args.work))
    for study in args.only:
        _python(f"{study}.py", "--work", str(args.work))
        _python("report.py")


def _python(script: str, *words: str) -> None:
    subprocess.run([sys.executable, str(HERE / script), *words], check=True)


if __name__ == "__main__":
    main()
