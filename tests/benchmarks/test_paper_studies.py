"""The studies of docs/evidence.md: what is written is what was measured, and nothing trained on is measured on."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "benchmarks" / "paper"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """Scripts of a folder import each other by name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(PAPER))
    yield
    for name in set(sys.modules) - before:
        if str(PAPER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_page_is_what_the_results_say():
    from report import evidence

    assert (ROOT / "docs" / "evidence.md").read_text() == "\n".join(evidence())


def test_the_page_has_no_result_that_is_not_there(monkeypatch, tmp_path):
    import report

    monkeypatch.setattr(report, "RESULTS", tmp_path)
    text = "\n".join(report.evidence())
    assert text.count("Not run.") == len(report.STUDIES)


def test_documents_held_out_are_never_taken_to_train(tmp_path):
    """The studies' own choice of documents and prepare's ``held_out_share`` follow one rule."""
    from texts import HELD_OUT, place, taken

    from lit_long.data.prepare import PrepareConfig, prepare
    from lit_long.data.sources import Source

    rows = [
        {"id": f"manuals/{n}", "text": f"Document {n}. " * 40} for n in range(300) if taken("manuals", f"manuals/{n}")
    ]
    (tmp_path / "manuals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = PrepareConfig(
        tokenizer=str(ROOT / "recipes/assets/quickstart/base"),
        sources=(Source(path=str(tmp_path / "manuals.jsonl"), name="manuals"),),
        output=str(tmp_path / "corpus"),
        held_out_share=HELD_OUT,
    )
    prepare(config)
    from lit_long.data import TokenCorpus

    for split, held_out in (("train", False), ("held_out", True)):
        corpus = TokenCorpus(str(tmp_path / "corpus"), split)
        ids = [corpus.document_id(i) for i in range(corpus.documents)]
        assert ids
        assert all(
            (place(id_.removeprefix("manuals/manuals/").removeprefix("manuals:")) < HELD_OUT) is held_out for id_ in ids
        )


def test_curricula_hold_tokens_constant_and_save_what_the_formula_says():
    from curriculum import HIDDEN, LENGTH, SHORT, STEPS, SWITCHES, TOKENS_PER_STEP, formula_flops, stages

    from lit_long.flops import megatron_flops

    whole = formula_flops(SWITCHES["2,048 always"])
    for name, switch in SWITCHES.items():
        parts = stages(switch)
        assert all(part["sequence_length"] * part["micro_batch"] == LENGTH for part in parts)
        assert parts[-1]["sequence_length"] == (SHORT if switch == 1 else LENGTH)
        short = megatron_flops(layers=4, hidden=HIDDEN, sequence_length=SHORT, tokens=STEPS * TOKENS_PER_STEP)
        assert formula_flops(switch) == pytest.approx(switch * short + (1 - switch) * whole, rel=1e-9), name


def test_recipes_hold_what_the_scripts_say():
    import curriculum
    import positions
    import yaml

    for name, module in (("extend", positions), ("scratch", curriculum)):
        recipe = yaml.safe_load((PAPER / "recipes" / f"{name}.yaml").read_text())
        assert recipe["trainer"]["max_steps"] == module.STEPS
        assert recipe["data"]["init_args"]["tokens_per_step"] == module.TOKENS_PER_STEP
    base = yaml.safe_load((PAPER / "recipes" / "base.yaml").read_text())
    assert base["model"]["context_length"] == positions.NATIVE
    extend = yaml.safe_load((PAPER / "recipes" / "extend.yaml").read_text())
    assert extend["model"]["context_length"] == extend["data"]["init_args"]["sequence_length"] == positions.LENGTH
