"""Evaluation inside of a run: the right numbers under every strategy, and a run that does not notice it."""

import json

import pytest
import torch

from lit_long.callbacks import LongContextEvaluation
from lit_long.errors import UserError
from lit_long.evaluation import position_nll, take_windows
from tests.parallel.parallel_runs import LENGTH, fit, fit_on_mesh, lines

TRAINED = ("loss", "grad_norm")


def evaluation(**options):
    usual = {"every_n_steps": 2, "tasks": ("loss", "context_gain", "passkey", "needle"), "length": 200, "windows": 5}
    return LongContextEvaluation(**usual | {"retrieval_probes": 1, "retrieval_lengths": (150, 200)} | options)


def rows(folder):
    return [json.loads(line) for line in (folder / "evaluation.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(corpus_dir, tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    metrics, weights = fit(corpus_dir, tiny_model_dir, folder, callbacks=[evaluation()])
    return folder, metrics, weights


def test_training_does_not_notice(alone, corpus_dir, tiny_model_dir, tmp_path):
    folder, _, weights = alone
    _, without = fit(corpus_dir, tiny_model_dir, tmp_path)
    assert lines(folder, *TRAINED) == lines(tmp_path, *TRAINED)
    assert all(torch.equal(weights[name], without[name]) for name in without)


def test_random_numbers_and_modes_are_put_back(corpus_dir, tiny_model_dir, tmp_path):
    runs = []
    for name, callbacks in (("with", [evaluation(every_n_steps=1)]), ("without", [])):
        fit(corpus_dir, tiny_model_dir, tmp_path / name, lora=True, dropout=0.3, callbacks=callbacks)
        runs.append((lines(tmp_path / name, *TRAINED), torch.rand(3).tolist()))
    assert runs[0] == runs[1]
    fit(corpus_dir, tiny_model_dir, tmp_path / "none", lora=True)
    assert lines(tmp_path / "none", *TRAINED) != runs[0][0]  # it does drop


def test_numbers_are_those_of_the_model_at_rest(alone, corpus_dir, tiny_model_dir):
    from lit_long.data import TokenCorpus
    from lit_long.evaluation import context_gain
    from lit_long.model.build import ModelSpec, build_model
    from lit_long.rope import ABF

    folder = alone[0]
    assert [row["step"] for row in rows(folder)] == [0, 2, 4]
    windows = take_windows(TokenCorpus(corpus_dir, "held_out"), 200, 5, 0)
    spec = ModelSpec(
        model=tiny_model_dir, model_config=None, revision=None, rope=ABF(base=50_000), context_length=256,
        attention="packed", lora=None,
    )  # fmt: skip
    model = build_model(spec).model
    nll = position_nll(model, windows.ids)
    first = rows(folder)[0]["values"]
    assert first["eval/loss"] == pytest.approx(nll.mean().item(), rel=1e-5)
    assert first["eval/loss_beyond_native"] == pytest.approx(nll[:, 64:].mean().item(), rel=1e-5)
    gain = context_gain(model, windows, native_length=64, full_nll=nll)
    assert first["eval/full_minus_best_truncation"] == pytest.approx(gain.full_minus_best.mean, rel=1e-3, abs=1e-5)
    assert rows(folder)[-1]["values"]["eval/loss"] < first["eval/loss"] - 0.01  # it did train
    assert (folder / "loss_by_position.png").read_bytes().startswith(b"\x89PNG")
    assert lines(folder, "eval/loss") == {
        max(0, row["step"] - 1): (pytest.approx(row["values"]["eval/loss"]),) for row in rows(folder)
    }


def test_retrieval_is_that_of_the_model_at_rest(alone, corpus_dir, tiny_model_dir):
    from transformers import AutoTokenizer

    from lit_long.data import TokenCorpus
    from lit_long.evaluation.retrieval.grid import GridSpec, retrieval_grid
    from lit_long.evaluation.retrieval.haystack import Haystack
    from lit_long.model import load_for_inference

    model = load_for_inference(f"{tiny_model_dir}#abf:base=50000,length=256").model
    haystack = Haystack.of_corpus(TokenCorpus(corpus_dir, "held_out"), AutoTokenizer.from_pretrained(tiny_model_dir))
    spec = GridSpec(tasks=("passkey", "needle"), lengths=(150, 200), depths=(0.1, 0.5, 0.9), samples=1, control=False)
    expected = retrieval_grid(model, haystack, spec)
    first = rows(alone[0])[0]
    for task in spec.tasks:
        for length in spec.lengths:
            own = [row["nll"] for row in expected if (row["task"], row["length"]) == (task, length)]
            assert first["values"][f"eval/{task}_loss_{length}"] == pytest.approx(sum(own) / 3, rel=1e-4)
            assert first["values"][f"eval/{task}_exact_{length}"] == 0
    assert [(one["task"], one["probes"]) for one in first["retrieval"][""]] == [
        ("passkey", 3), ("passkey", 3), ("needle", 3), ("needle", 3),
    ]  # fmt: skip
    assert first["retrieval"][""][0]["high"] > 0.5  # three probes show little
    for task in spec.tasks:
        assert (alone[0] / f"{task}.png").read_bytes().startswith(b"\x89PNG")


def test_retrieval_alone(corpus_dir, tiny_model_dir, tmp_path):
    only = evaluation(tasks=("multi_key",), retrieval_lengths=None, length=240, every_n_steps=4, at_start=False)
    fit(corpus_dir, tiny_model_dir, tmp_path, callbacks=[only])
    (row,) = rows(tmp_path)
    assert set(row["values"]) == {f"eval/multi_key_{what}_240" for what in ("exact", "loss")}
    assert row["sets"] == {}


@pytest.mark.parametrize("mesh", [(2, 1), (1, 2)], ids=["dp2", "cp2"])
def test_every_mesh_gives_the_numbers_of_one_process(mesh, alone, corpus_dir, tiny_model_dir, tmp_path):
    folder = tmp_path / "mesh"
    fit_on_mesh(corpus_dir, tiny_model_dir, folder, mesh=mesh, callbacks=[evaluation()])
    for mine, theirs in zip(rows(folder), rows(alone[0]), strict=True):
        assert mine["step"] == theirs["step"]
        assert mine["values"] == pytest.approx(theirs["values"], rel=1e-4, abs=1e-5)
    plain = tmp_path / "plain"
    fit_on_mesh(corpus_dir, tiny_model_dir, plain, mesh=mesh)
    assert lines(folder, *TRAINED) == lines(plain, *TRAINED)


def test_by_tokens_and_at_the_end(corpus_dir, tiny_model_dir, tmp_path):
    every = evaluation(every_n_steps=None, every_n_tokens=int(1.5 * 4 * LENGTH), tasks=("loss",), at_start=False)
    fit(corpus_dir, tiny_model_dir, tmp_path, callbacks=[every])
    assert [row["step"] for row in rows(tmp_path)] == [2, 3, 4]  # 1.5, 3 and 4.5 steps, the last at the end


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every_n_steps": None}, "every_n_steps or every_n_tokens"),
        ({"tasks": ("needles",)}, r"tasks is \['needles'\]"),
        ({"retrieval_probes": 0}, "retrieval_probes is 0"),
        ({"retrieval_lengths": (64,)}, "too short to hide"),
        ({"tokenizer": "./no/such/place"}, "no/such/place"),
        ({"max_tokens": 1000}, "would read 5,060 tokens and max_tokens is 1,000"),
        ({"length": 10**6}, "shorter"),
        ({"split": "nothing", "corpus": "here"}, "here"),
    ],
)
def test_mistakes_are_named_before_the_first_step(options, says, corpus_dir, tiny_model_dir, tmp_path):
    with pytest.raises(UserError, match=says):
        fit(corpus_dir, tiny_model_dir, tmp_path, callbacks=[evaluation(**options)])
