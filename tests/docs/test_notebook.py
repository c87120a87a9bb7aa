"""The notebook runs from its first cell to the last, in small: a tiny model, two steps, beginnings of real books."""

import json
import logging
import sys
import types
from pathlib import Path

import matplotlib
import pytest

from tests.conftest import HELD_OUT
from tests.docs.pages import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "notebooks" / "extend_smollm2.ipynb").read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


@pytest.fixture
def shown(monkeypatch):
    """What cells display, with a stand-in for IPython."""
    seen = []
    display = types.ModuleType("IPython.display")
    display.display = seen.append
    display.Markdown = str
    display.Image = lambda name: Path(name).read_bytes()
    shell = types.ModuleType("IPython")
    shell.version_info, shell.get_ipython = (9, 0), lambda: None  # which matplotlib asks for
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    matplotlib.use("Agg")
    return seen


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_notebook_runs(shown, books, tiny_model_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):  # their handlers hold a stderr that is closed
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler):
                handler.stream = sys.stderr
    Path("recipes").mkdir()  # the books of the recipes would take a while; others are named below
    small = {"MODEL": tiny_model_dir, "NATIVE": 64, "LENGTH": 128, "STEPS": 2, "TOKENS_PER_STEP": 256, "WINDOWS": 2}
    small |= {"TEXT": [str(books)], "HELD_OUT": [HELD_OUT], "GPU": False, "PRECISION": "32-true"}
    scope = {"__name__": "notebook"}
    for number, code in enumerate(CODE):
        exec(compile(code, f"cell {number}", "exec"), scope)
        if code.startswith("# Settings"):
            assert small.keys() <= scope.keys()
            scope |= small
    assert len(scope["losses"]) == 2
    assert len(scope["held_out"]) == 1
    report, *pictures = shown
    assert "within native" in report
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(pictures) == 2
    assert Path("model/verification.json").is_file()
    assert "tokens:" in capsys.readouterr().out.splitlines()[-1]


def test_notebook_is_clean():
    """No outputs, and nothing of the machine that it was edited on."""
    assert NOTEBOOK["nbformat"] == 4
    for cell in NOTEBOOK["cells"]:
        assert cell["cell_type"] in ("code", "markdown")
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
