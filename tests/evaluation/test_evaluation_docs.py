"""The Python example of docs/evaluation.md runs as printed."""

import re
from pathlib import Path

import pytest


def test_example_runs(capsys):
    page = Path(__file__).parents[2] / "docs" / "evaluation.md"
    if not page.is_file():
        pytest.skip("installed without its docs")
    [example] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(compile(example, str(page), "exec"), {})
    out = capsys.readouterr().out
    assert "129-160:" in out
    assert "full context minus best truncation: Estimate(" in out
