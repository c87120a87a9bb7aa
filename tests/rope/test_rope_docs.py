"""Every Python example of docs/rope.md runs, and its table names every method."""

import re
from pathlib import Path

import pytest

from lit_long.rope import RopeGeometry, rope_methods

DOC = (Path(__file__).parents[2] / "docs" / "rope.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)


@pytest.mark.parametrize("index", range(len(EXAMPLES)))
def test_example_runs(index, capsys):
    scope = {"__name__": "example"}
    exec(EXAMPLES[index], scope)
    printed = capsys.readouterr().out
    if "verify_rope" in scope:
        assert printed.startswith("rope abf: 1 rotary module agrees")
    if "granularity" in scope:
        assert "abf    score at 8192:  3.00   granularity: 0.0788" in printed
    if "HalfSpeed" in scope:
        geometry = RopeGeometry(dim=8, base=1e4, native_length=16)
        assert scope["HalfSpeed"]().inv_freq(geometry, 32).tolist() == (geometry.inv_freq() / 2).tolist()


def test_table_names_every_method():
    assert len(EXAMPLES) == 3
    for name, method in rope_methods().items():
        assert f"| `{name}` | `{method.__name__}" in DOC
