"""Do the answers that one reading decides agree with greedy ``generate`` of stock transformers, prompt by prompt?

    python benchmarks/evaluation/agree.py MODEL CORPUS RETRIEVAL [--lengths 1024] [--arms none abf pi]

RETRIEVAL is the folder of ``lit-long retrieve --tasks needles`` (docs/evaluation_smollm2.md has the command). Its
prompts are made again and given to a model that transformers alone loads, with the positions set in its config by hand;
the rows are added to ``generate.jsonl`` in that folder, and those that are there are not made again.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lit_long.data import TokenCorpus
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.evaluation.retrieval.shared import make_shared

WINDOW = 16_384
ARMS = {  # config values as transformers has them
    "none": {"rope_type": "default", "rope_theta": 100_000.0},
    "abf": {"rope_type": "default", "rope_theta": 500_000.0},
    "pi": {"rope_type": "linear", "rope_theta": 100_000.0, "factor": 4.0},
}


def stock(model, arm):
    """The model with an arm's positions, loaded by transformers."""
    config = AutoConfig.from_pretrained(model)
    config.rope_parameters, config.max_position_embeddings = dict(ARMS[arm]), WINDOW
    return AutoModelForCausalLM.from_pretrained(model, config=config, dtype=torch.float32).eval()


def said(model, prompt, count):
    """The first ``count`` tokens of greedy decoding."""
    ids = torch.from_numpy(prompt)[None]
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
    return out[0, ids.shape[1] :].tolist()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("corpus")
    parser.add_argument("retrieval", type=Path)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    args = parser.parse_args()
    file = args.retrieval / "generate.jsonl"
    done = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    known = {(row["arm"], row["length"], row["depth"], row["sample"]) for row in done}
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    haystack = Haystack.of_corpus(TokenCorpus(args.corpus, "train"), tokenizer)
    for arm in args.arms:
        rows = [json.loads(line) for line in (args.retrieval / "raw" / f"{arm}.jsonl").read_text().splitlines()[1:]]
        depths = tuple(dict.fromkeys(row["depth"] for row in rows))
        rows = [row for row in rows if row["length"] in args.lengths]
        rows = [row for row in rows if (arm, row["length"], row["depth"], row["sample"]) not in known]
        if not rows:
            continue
        model = stock(args.model, arm)
        for row in rows:
            made = make_shared(haystack, length=row["length"], depths=depths, sample=row["sample"], seed=0, first=0)
            number = depths.index(row["depth"])
            tail, count = made.tails[number], made.answers[number]
            prompt = np.concatenate([made.text, tail[:-count]])
            exact = said(model, prompt, count) == tail[-count:].tolist()
            place = {key: row[key] for key in ("length", "depth", "sample")}
            with file.open("a") as out:
                out.write(json.dumps({"arm": arm, **place, "generate": exact, "one_reading": row["exact"]}) + "\n")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    same = sum(row["generate"] == row["one_reading"] for row in rows)
    print(f"{same} of {len(rows)} prompts agree; {sum(row['generate'] for row in rows)} of them are answered exactly")


if __name__ == "__main__":
    main()
