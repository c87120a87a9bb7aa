"""The page in one file: tables, plots inside, nothing from elsewhere, nothing of a model's answer rendered."""

import base64

from lit_long.evaluation.html import write_html


def test_everything_is_inside_and_answers_stay_text(tmp_path):
    report, image = tmp_path / "report.md", tmp_path / "plot.png"
    report.write_text("# Report\n\n| a | b |\n|---|---|\n| 1 | <script>alert(1)</script> |\n", encoding="utf-8")
    image.write_bytes(b"\x89PNG picture")
    page = write_html(report, [image]).read_text(encoding="utf-8")
    assert "<td>1</td>" in page
    assert "<title>Report</title>" in page
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert base64.b64encode(b"\x89PNG picture").decode() in page
    assert "http" not in page
