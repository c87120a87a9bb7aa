"""Data mixes in small (paper, Table 7): what does new long text bring, and what do long documents?

    python benchmarks/paper/data_mix.py --work runs/paper [--windows 8]

The base of the position study (``positions.py``) is continued at 8 times its length with ABF on four mixes, the same
number of tokens each: (a) with new long text (books), (b) without, (c) without long documents, (d) with the long
documents of (b) drawn more often, to the long share of (a). A document is long here if it is longer than the training
length; the paper gives no threshold. Documents in a sequence see each other, in all arms: the paper reports no mask,
and with one an arm without long documents would never see a long distance at all. The base itself has seen books,
manuals and code alike, so (a) is new text of a known kind here.
"""

import argparse
from pathlib import Path
from typing import Any

from arms import HERE, ROOT, Arm, sources, write_result
from measure import measure, tabulate
from positions import LENGTH, NATIVE, STEPS, TOKENS_PER_STEP, train_base

from lit_long.data import TokenCorpus
from lit_long.data.documents import DocumentSet, Selection

LONG = LENGTH
REFERENCE = "b, without it"  # the other arms are compared with it
WITHOUT_BOOKS = {"books": 0, "manuals": 0.5, "code": 0.5}
NEW_LONG = {"books": 0.3, "manuals": 0.35, "code": 0.35}


def long_share(work: Path, weights: dict[str, float]) -> float:
    """Share of tokens in long documents, of a mixture with these shares of its sources."""
    corpora = {name: TokenCorpus(str(work / name), "train") for name in weights}
    tokens = {name: (DocumentSet(c, Selection(above=LONG)).tokens, int(c.starts[-1])) for name, c in corpora.items()}
    return sum(weight * tokens[name][0] / tokens[name][1] for name, weight in weights.items()) / sum(weights.values())


def arms(work: Path) -> dict[str, dict[str, Any]]:
    """Settings of the mixture, by arm."""
    share = round(long_share(work, NEW_LONG), 3)
    return {
        "a, new long text": {"weights": NEW_LONG},
        "b, without it": {"weights": WITHOUT_BOOKS},
        "c, no long documents": {"weights": WITHOUT_BOOKS, "drop_longer_than": LONG},
        "d, long ones more often": {"weights": WITHOUT_BOOKS, "long_upsample": {"over": LONG, "share": share}},
    }


def study(work: Path, windows: int) -> dict[str, Any]:
    """The study's numbers: trains and measures what is missing."""
    folder, _ = train_base(work)
    models, seconds, settings = {"base": str(folder)}, {}, arms(work)
    for name, mixture in settings.items():
        arm = Arm(
            work / f"data_mix_{name[0]}",
            (
                HERE / "recipes" / "extend.yaml",
                HERE / "recipes" / "common.yaml",
                ROOT / "recipes" / "ablations" / "positions" / "c_abf.yaml",
            ),
            {
                "model.model": str(folder),
                "seed_everything": 1,
                "data.init_args.seed": 1,
                "data.init_args.document_mask": False,
                **sources(work),
                **{f"data.init_args.mixture.{key}": value for key, value in mixture.items()},
            },
        )
        seconds[name] = arm.train()["seconds"]
        models[name[0]] = arm.checkpoint
    found = measure(work, models, windows, length=LENGTH, native=NATIVE, study="data_mix")
    return {
        "native_length": NATIVE,
        "length": LENGTH,
        "long": LONG,
        "tokens": STEPS * TOKENS_PER_STEP,
        "training_seconds": seconds,
        "mixtures": settings,
        "reference": REFERENCE,
        "arms": tabulate(found, {"base": ["base"]} | {name: [name[0]] for name in settings}, reference=REFERENCE),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--windows", type=int, default=8, help="of each source")
    args = parser.parse_args()
    command = f"python benchmarks/paper/data_mix.py --windows {args.windows}"
    write_result("paper_data_mix", command, study(args.work.resolve(), args.windows))


if __name__ == "__main__":
    main()
