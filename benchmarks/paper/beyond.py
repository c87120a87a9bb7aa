"""What the position study's models do with length (paper, Figs. 1, 5b, 9): power law, first sentences, extrapolation.

    python benchmarks/paper/beyond.py --work runs/paper [--windows 8] [--samples 12]

Reads the models that ``positions.py`` trained (seed 1). Extrapolation: loss by position on windows of twice the trained
length. Power law: through the losses by position of the ABF model (of ``longer.py``, where that has run), with
intervals over documents. First sentences: the model is asked for the sentence that a text begins with; one of three
million parameters follows no request, so the loss of the sentence stands beside that of the same prompt without it (the
gain is what it read).
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from arms import ROOT, write_result
from measure import SOURCES, measure, tabulate
from positions import ARMS, LENGTH, NATIVE, train

from lit_long.data import TokenCorpus
from lit_long.errors import UserError
from lit_long.evaluation import fit_power_law
from lit_long.evaluation.power_law_points import position_points
from lit_long.evaluation.retrieval.grid import GridSpec, retrieval_grid
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.model.inference import load_for_inference
from lit_long.model.tokenizer import load_tokenizer

RETRIEVAL_LENGTHS = (256, 512, 1024, 2048, 3072, 4096, 6144)


def extrapolation(work: Path, models: dict[str, str], windows: int) -> dict[str, Any]:
    """Loss by position at twice the trained length."""
    found = measure(work, models, windows, length=2 * LENGTH, native=LENGTH, study="extrapolation", contexts=False)
    return {"length": 2 * LENGTH, "arms": tabulate(found, {name: [name] for name in models})}


def power_law(work: Path, models: dict[str, str], windows: int) -> dict[str, Any]:
    """The law through the losses of the ABF model, all sources together; ``windows`` of each."""
    found = measure(work, models, windows, length=LENGTH, native=NATIVE, study="power_law", contexts=False)
    nll, clusters, offset = [], [], 0
    for evaluation in found.values():
        nll.append(evaluation.models[-1].position.nll.double().numpy())
        clusters.append(evaluation.windows.documents.numpy() + offset)
        offset += int(evaluation.windows.documents.max()) + 1
    ranges, losses = position_points(np.concatenate(nll))
    about = {"model": list(models)[-1], "windows": len(losses), "documents": len(np.unique(np.concatenate(clusters)))}
    try:
        fit = fit_power_law(ranges, losses, clusters=np.concatenate(clusters))
    except UserError as error:  # a result, too: by position the loss does not fall
        return about | {"refused": str(error), "ranges": ranges.tolist(), "losses": losses.mean(axis=0).tolist()}
    return about | {
        "law": vars(fit.law),
        "intervals": fit.intervals,
        "determined": fit.determined,
        "r2": fit.r2,
        "best_form": fit.best,
        "ranges": fit.ranges,
        "losses": fit.losses,
        "errors": fit.errors,
    }


def first_sentences(work: Path, models: dict[str, str], samples: int) -> dict[str, Any]:
    """By model and length: loss of the sentence, gain over the prompt without it, exact copies, ROUGE-L.

    Without xPos-ABF: its attention has no key/value cache, so each token of an answer would read the prompt again.
    """
    spec = GridSpec(tasks=("first_sentence",), lengths=RETRIEVAL_LENGTHS, samples=samples)
    found: dict[str, Any] = {}
    for name, path in models.items():
        if name == "xPos-ABF":
            continue
        print(f"first sentences: {name}", flush=True)
        haystack = Haystack.of_corpus(TokenCorpus(str(work / "books"), "held_out"), load_tokenizer(models["base"]))
        rows = retrieval_grid(
            load_for_inference(path).model,
            haystack,
            spec,
            rows_file=work / "raw" / "first_sentence" / f"{name}.jsonl",
            model_key=path,
            allow_beyond=True,
        )
        found[name] = {
            str(length): {
                "nll": fmean(row["nll"] for row in rows if row["length"] == length),
                "gain": fmean(row["control_nll"] - row["nll"] for row in rows if row["length"] == length),
                "rouge_l": fmean(row["rouge_l"] for row in rows if row["length"] == length),
                "exact": fmean(row["exact"] for row in rows if row["length"] == length),
            }
            for length in RETRIEVAL_LENGTHS
        }
    return {"samples": samples, "lengths": RETRIEVAL_LENGTHS, "models": found}


def study(work: Path, windows: int, samples: int) -> dict[str, Any]:
    """All three; models are trained where they are missing."""
    trained, _ = train(work, 1)
    models = {"base": trained["base"]} | {name: trained[f"{name} 1"] for name in ARMS}
    longer = work / "longer_abf" / "checkpoints" / "last.ckpt"  # of longer.py, where it has run
    best = {"ABF, five times the tokens": str(longer)} if longer.exists() else {"ABF": models["ABF"]}
    return {
        "native_length": NATIVE,
        "trained_length": LENGTH,
        "first_sentences": first_sentences(work, models, samples),
        "power_law": power_law(work, {"base": models["base"]} | best, 2 * windows),
        "extrapolation": extrapolation(work, models, max(2, windows // 2)),
        "sources": SOURCES,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "paper")
    parser.add_argument("--windows", type=int, default=8, help="of each source; the power law takes twice as many")
    parser.add_argument("--samples", type=int, default=12, help="first sentences of each length")
    args = parser.parse_args()
    command = f"python benchmarks/paper/beyond.py --windows {args.windows} --samples {args.samples}"
    write_result("paper_beyond", command, study(args.work.resolve(), args.windows, args.samples))


if __name__ == "__main__":
    main()
