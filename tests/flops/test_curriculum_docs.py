"""The Python example of docs/curriculum.md prints what the page says."""

import re
from pathlib import Path

DOC = (Path(__file__).parents[2] / "docs" / "curriculum.md").read_text(encoding="utf-8")


def test_example(capsys):
    ((example, printed),) = re.findall(r"```python\n(.*?)```\n```\n(.*?)```", DOC, re.DOTALL)
    exec(example, {"__name__": "example"})
    assert capsys.readouterr().out == printed
