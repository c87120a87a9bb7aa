"""The table of docs/rope.md names every method, and its example of a new one is one. (Examples run in tests/docs.)"""

import re
from pathlib import Path

from lit_long.rope import RopeGeometry, rope_methods

DOC = (Path(__file__).parents[2] / "docs" / "rope.md").read_text(encoding="utf-8")


def test_table_names_every_method():
    for name, method in rope_methods().items():
        assert f"| `{name}` | `{method.__name__}" in DOC


def test_new_method_is_one():
    scope = {"__name__": "example"}
    exec(re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)[-1], scope)
    geometry = RopeGeometry(dim=8, base=1e4, native_length=16)
    assert scope["HalfSpeed"]().inv_freq(geometry, 32).tolist() == (geometry.inv_freq() / 2).tolist()
