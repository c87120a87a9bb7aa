"""The command line: quick answers, one message for a mistake, exit codes."""

import subprocess
import sys

import pytest

from lit_long.entry import main

HEAVY = ("torch", "lightning", "transformers", "datasets", "numpy", "yaml", "jsonargparse")


def loaded_after(code):
    script = f"import sys\n{code}\nprint('loaded:', *[m for m in {HEAVY!r} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["prepare", "--help"], ["evaluate", "--help"], ["export", "--help"]]
)
def test_help_and_version_load_nothing_heavy(arguments):
    code = f"from lit_long.entry import main\ntry:\n    main({arguments!r})\nexcept SystemExit:\n    pass"
    assert loaded_after(code) == "loaded:"


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_after("import lit_long, lit_long.data, lit_long.model, lit_long.callbacks") == "loaded:"
    assert "torch" in loaded_after("import lit_long\nlit_long.RopeScaling"), "the check itself must work"


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("fit", "validate", "prepare", "evaluate", "export"):
        assert f"\n  {word} " in shown


def test_version_names_the_stack(capsys):
    assert main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("lit-long 0.")
    assert "\ntorch 2." in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fti"], "did you mean 'fit'"),
        (["wherever"], "commands: fit"),
        (["prepare"], "missing tokenizer, sources, output"),
        (["prepare", "--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["prepare", "--source", "no", "--tokenizer", "t", "--output", "o"], "no: no such file or directory"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(arguments, message, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert shown.out == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tokenizer: t\nsources: [{path: a, pth: b}]\noutput: o\n", "pth"),
        ("tokenizer: t\nsources: [{path: a}]\noutput: o\nheld: [x]\n", "held"),
        ("tokenizer: [\n", "not valid YAML"),
        ("- a\n- b\n", "expected keys and values"),
    ],
)
def test_prepare_names_the_bad_key(tmp_path, text, message, capsys):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    assert main(["prepare", "--config", str(config)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "c.yaml" in shown


def test_debug_shows_the_traceback():
    with pytest.raises(ValueError, match="no command"):
        main(["fti", "--debug"])
