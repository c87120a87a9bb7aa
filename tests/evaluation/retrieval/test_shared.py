"""Many needles behind one reading of a text: the numbers of one forward pass for each of them."""

import numpy as np
import pytest
import torch

from lit_long.errors import UserError
from lit_long.evaluation.retrieval import grid, shared
from lit_long.evaluation.retrieval.grid import GridSpec, retrieval_grid

SPEC = GridSpec(tasks=("needles",), lengths=(160,), depths=(0.2, 0.8), samples=1, first=0)


def test_one_reading_gives_what_a_forward_pass_each_gives(real, monkeypatch):
    model, haystack = real
    assert shared.can_share(model)
    together = retrieval_grid(model, haystack, SPEC)
    monkeypatch.setattr(shared, "can_share", lambda model: False)
    apart = retrieval_grid(model, haystack, SPEC)
    assert [(row["exact"], row["control_exact"]) for row in together] == [
        (row["exact"], row["control_exact"]) for row in apart
    ]
    for one, other in zip(together, apart, strict=True):
        assert one["nll"] == pytest.approx(other["nll"], rel=1e-3, abs=1e-5)
        assert one["control_nll"] == pytest.approx(other["control_nll"], rel=1e-3)
    # what is hidden is read; nothing is guessed
    assert all(row["control_nll"] - row["nll"] > 0.5 for row in together)
    assert not any(row["control_exact"] for row in together)


def test_it_is_what_stock_generate_gives(real):
    model, haystack = real
    rows = retrieval_grid(model, haystack, SPEC)
    said = []
    for sample in range(SPEC.samples):
        made = shared.make_shared(haystack, length=160, depths=SPEC.depths, sample=sample, seed=0, first=0)
        for tail, count in zip(made.tails, made.answers, strict=True):
            prompt = torch.from_numpy(np.concatenate([made.text, tail[:-count]]))[None]
            with torch.no_grad():
                out = model.generate(
                    prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count,
                    eos_token_id=None, pad_token_id=0,
                )  # fmt: skip
            said.append(out[0, prompt.shape[1] :].tolist() == tail[-count:].tolist())
    assert [row["exact"] for row in rows] == said


def test_texts_are_what_they_say(real):
    _, haystack = real
    made = shared.make_shared(haystack, length=900, depths=(0.0, 0.5, 1.0), sample=1, seed=3, first=0)
    assert len(made.text) + max(map(len, made.tails)) == 900 == len(made.control) + max(map(len, made.tails))
    assert made.text[0] == made.control[0] == 0
    assert made.depths == pytest.approx((0.0, 0.5, 1.0), abs=0.15)
    text, control = (haystack.tokenizer.decode(ids) for ids in (made.text, made.control))
    for tail, count in zip(made.tails, made.answers, strict=True):
        number = haystack.tokenizer.decode(tail[-count:]).strip()
        assert number in text
        assert number not in control
    again = shared.make_shared(haystack, length=900, depths=(0.0, 0.5, 1.0), sample=1, seed=3, first=0)
    assert np.array_equal(made.text, again.text)
    with pytest.raises(UserError, match="too short to hide"):
        shared.make_shared(haystack, length=90, depths=(0.0, 0.5, 1.0), sample=0, seed=0)
    with pytest.raises(UserError, match="at most 26 depths"):
        shared.make_shared(haystack, length=900, depths=[n / 30 for n in range(30)], sample=0, seed=0)


def test_models_that_forget_or_slide_are_read_again(tiny_model_dir):
    from transformers import AutoConfig, MistralConfig

    class Model:
        def __init__(self, config, implementation="sdpa"):
            self.config = config
            config._attn_implementation = implementation

    assert shared.can_share(Model(AutoConfig.from_pretrained(tiny_model_dir)))
    assert not shared.can_share(Model(MistralConfig(sliding_window=64)))
    assert shared.can_share(Model(MistralConfig(sliding_window=None)))
    assert not shared.can_share(Model(AutoConfig.from_pretrained(tiny_model_dir), "lit_long_packed"))


def test_a_text_that_was_cut_off_between_rows_is_read_again(real, tmp_path, monkeypatch):
    model, haystack = real
    file = tmp_path / "rows.jsonl"
    rows = retrieval_grid(model, haystack, SPEC, rows_file=file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]))
    assert retrieval_grid(model, haystack, SPEC, rows_file=file) == rows
    monkeypatch.setattr(grid, "_rows", None)
    assert retrieval_grid(model, haystack, SPEC, rows_file=file) == rows
