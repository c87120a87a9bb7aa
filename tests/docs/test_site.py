"""The site's own parts: API pages name everything public, figures are drawn by the package, images stay small.

That links, anchors and docstrings are right is what ``make docs`` checks.
"""

import re
from importlib import import_module

import pytest

from tests.docs.pages import ROOT

API = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
PACKAGES = ["lit_long", *(f"lit_long.{name}" for name in ("rope", "attention", "loss", "data", "model", "parallel"))]
PACKAGES += ["lit_long.callbacks", "lit_long.evaluation", "lit_long_hub"]


@pytest.mark.parametrize("package", PACKAGES)
def test_api_has_every_public_name(package):
    documented = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", API, flags=re.MULTILINE)}
    values = import_module(package)
    public = {name for name in values.__all__ if callable(getattr(values, name))}  # not constants
    assert public <= documented


def test_figures_are_drawn_and_small():
    import matplotlib.pyplot as plt

    from benchmarks.figures.concepts import FIGURES

    for name, draw in FIGURES.items():
        plt.close(draw())
        image = ROOT / "docs" / "images" / f"concepts_{name}.png"
        assert image.stat().st_size < 100_000
        assert image.name in (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
