"""``lit-long check`` over a real recipe: everything proved, nothing written, and what is wrong is said."""

import json

import pytest

from lit_long.attention import leak
from lit_long.entry import main
from lit_long.model import forward
from tests.cli.test_fit import recipe  # noqa: F401 - a fixture


def checked(recipe, capsys, *arguments):  # noqa: F811
    code = main(["check", *recipe, "--json", *arguments])
    out = capsys.readouterr().out
    return code, {check["name"]: check for check in json.loads(out[out.index("[\n") :])}


def test_a_recipe_that_is_right(recipe, tmp_path, capsys):  # noqa: F811
    before = sorted(tmp_path.rglob("*"))
    code, checks = checked(recipe, capsys)
    assert code == 0
    assert {name for name, check in checks.items() if check["passed"]} == {
        "positions", "output layer", "loss", "document leak", "data",
    }  # fmt: skip
    assert "10 steps of 1,024 tokens (10,240 in all); steps 1 to 10: 256 tokens a row" in checks["data"]["detail"]
    assert "sdpa" in checks["attention"]["detail"]
    assert sorted(tmp_path.rglob("*")) == before  # no run folder, no checkpoint, no configuration


def test_as_a_table(recipe, capsys):  # noqa: F811
    assert main(["check", *recipe, "data.document_mask=false"]) == 0
    out = capsys.readouterr().out
    assert "document leak" in out
    assert "passed" in out
    assert "data.document_mask: false" in out.replace("\n", " ")


def test_a_leak_is_exit_code_1_and_the_other_checks_are_made(recipe, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr(leak, "_states", lambda *_: ["a change of document 0 moves 3 states of others"])
    code, checks = checked(recipe, capsys)
    assert code == 1
    assert checks["document leak"]["passed"] is False
    assert "moves 3 states of others" in checks["document leak"]["detail"]
    assert checks["data"]["passed"]


def test_a_wrong_loss_is_found(recipe, capsys, monkeypatch):  # noqa: F811
    from lit_long.callbacks import preflight

    real = preflight.linear_cross_entropy
    monkeypatch.setattr(
        preflight, "linear_cross_entropy", lambda *a, **k: real(*a, **k)._replace(loss=real(*a, **k).loss * 1.001)
    )
    code, checks = checked(recipe, capsys)
    assert code == 1
    assert "in float64 on whole logits" in checks["loss"]["detail"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["data.tokens_per_step"], "is no setting; give KEY=VALUE"), (["data.tokens_per_step=1000"], "take 768 or 1024")],
)
def test_mistakes(recipe, arguments, message, capsys):  # noqa: F811
    assert main(["check", *recipe, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_fit_makes_the_leak_check(recipe, capsys, monkeypatch):  # noqa: F811
    assert main(["fit", *recipe, "--trainer.max_steps", "1"]) == 0
    shown = capsys.readouterr()
    assert "documents: 4 packed documents of 64 tokens: states bit-equal" in shown.out + shown.err
    monkeypatch.setattr(leak, "_gradients", lambda *_: ["document 2 sends gradients to 4 others' tokens"])
    assert main(["fit", *recipe, "--trainer.max_steps", "1"]) == 2
    assert "documents leak into each other" in capsys.readouterr().err


def test_what_the_check_uses_is_what_training_uses():
    from lit_long.callbacks import preflight

    assert preflight.hidden_states is forward.hidden_states
