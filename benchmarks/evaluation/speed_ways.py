"""What each measurement of the evaluation's speed does; each runs in a process of its own (``speed.py``).

Wall and CPU seconds leave out loading and a warm-up on 64 tokens.
"""

import io
import json
import time
from pathlib import Path

import numpy as np
import torch
import zstandard
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
RULER_TOKENS = 128  # what RULER's needle tasks let a model write


def books():
    """The public domain books that ship with the repository."""
    with (ROOT / "recipes/assets/quickstart/books.jsonl.zst").open("rb") as packed:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(packed), encoding="utf-8")
        return [json.loads(line)["text"] for line in lines]


def load(model):
    """Model in float32 and its tokenizer; the warm-up is done."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.inference_mode():
        loaded(torch.arange(64)[None])
    return loaded, AutoTokenizer.from_pretrained(model)


class Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self):
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error):
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu

    def seconds(self):
        """Both, rounded."""
        return {"wall": round(self.wall, 2), "cpu": round(self.cpu, 2)}


def forward(model, length, ours):
    """Mean loss of one window: in slices, or as ``model(ids, labels=ids)`` of transformers."""
    from lit_long.evaluation import position_nll

    loaded, tokenizer = load(model)
    text = books()[0][100_000 : 100_000 + 8 * length]
    ids = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][: length + 1])[None]
    assert ids.shape[1] == length + 1
    with Clock() as clock:
        if ours:
            loss = position_nll(loaded, ids).mean()
        else:
            with torch.inference_mode():
                loss = loaded(input_ids=ids, labels=ids, use_cache=False).loss
    return {"loss": float(loss), "seconds": clock.seconds()}


def questions(haystack, tokenizer, length):
    """The prompts as text, and as token ids of what the text encodes to: the same for every way.

    Returns:
        A list of (prompt, its ids, ids of the answer, answer).
    """
    from lit_long.evaluation.retrieval.shared import make_shared

    made = make_shared(haystack, length=length, depths=DEPTHS, sample=0, seed=0)
    found = []
    for tail, count in zip(made.tails, made.answers, strict=True):
        prompt = tokenizer.decode(np.concatenate([made.text, tail[:-count]]))
        ids = np.array(tokenizer(prompt, add_special_tokens=False)["input_ids"], dtype=np.int64)
        found.append((prompt, ids, tail[-count:], tokenizer.decode(tail[-count:])))
    return found


def retrieval(model, length, way, few):
    """Exact match of the probes of one text, and the time that a probe takes."""
    from lit_long.evaluation.retrieval.grid import _one
    from lit_long.evaluation.retrieval.haystack import Haystack
    from lit_long.evaluation.retrieval.shared import shared_scores

    loaded, tokenizer = load(model)
    haystack = Haystack.of_texts([books()[0]], tokenizer, name="book")
    asked = questions(haystack, tokenizer, length)
    if way == "one reading":
        every = [ids for _, ids, _, _ in asked]
        shortest = min(map(len, every))
        apart = [not all(ids[i] == every[0][i] for ids in every) for i in range(shortest)]
        common = apart.index(True)
        tails = [np.concatenate([ids[common:], answer]) for _, ids, answer, _ in asked]
        with Clock() as clock:
            scores = shared_scores(loaded, every[0][:common], tails, [len(answer) for _, _, answer, _ in asked])
        exact = [bool(hits.all()) for _, hits in scores]
    elif way == "one forward each":
        with Clock() as clock:
            scores = [_one(loaded, np.concatenate([ids, answer]), len(answer), None) for _, ids, answer, _ in asked]
        exact = [bool(hits.all()) for _, hits in scores]
    else:
        asked = asked[:few] if way == "lm-eval, as RULER" else asked
        exact, clock = _by_lm_eval(loaded, tokenizer, asked, length, way)
    seconds = {key: round(value / len(asked), 3) for key, value in clock.seconds().items()}
    return {"exact": exact, "seconds": seconds, "probes": len(asked), "tokens": [len(ids) for _, ids, _, _ in asked]}


def _by_lm_eval(loaded, tokenizer, asked, length, way):
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=1, max_length=8192)
    requests = []
    for number, (prompt, ids, answer, _) in enumerate(asked):
        assert lm.tok_encode(prompt) == ids.tolist()
        new = RULER_TOKENS if way == "lm-eval, as RULER" else len(answer)
        settings = {"until": [], "do_sample": False, "max_gen_toks": new}
        requests.append(Instance("generate_until", {}, (prompt, settings), number))
    with Clock() as clock:
        said = lm.generate_until(requests, disable_tqdm=True)
    return [text.strip().startswith(answer.strip()) for text, (_, _, _, answer) in zip(said, asked, strict=True)], clock


def measure(job):
    """Run one measurement."""
    if job["what"] == "forward":
        return forward(job["model"], job["length"], job["way"] == "lit-long")
    return retrieval(job["model"], job["length"], job["way"], job["few"])
