"""Small benchmark folders in the schemas of SCROLLS, ZeroSCROLLS and L-Eval; texts written for these tests."""

import json

import pytest

FOX = "A red fox lived under the old oak. " * 20
MILL = "The miller's daughter kept seven grey geese. " * 20


def write_rows(folder, split, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def scrolls_row(id, context, question, output):
    return {"id": id, "pid": f"{id}_0", "input": f"{question}\n\n{context}", "output": output}


def zero_row(id, document, query, output):
    front = "You are given a report. Answer the question.\n\nReport:\n"
    text = f"{front}{document}\n\nQuestion:\n{query}\n\nAnswer:\n"
    start = text.index("Question:\n")
    return {
        "id": id,
        "pid": f"{id}_0",
        "input": text,
        "output": output,
        "document_start_index": len(front),
        "document_end_index": len(front) + len(document),
        "query_start_index": start,
        "query_end_index": start + len(f"Question:\n{query}"),
        "truncation_seperator": "... [The rest of the report is omitted]\n\n",
    }


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    options = "(A) a fox  (B) a goose (C) an owl\n (D) a mill"
    for name in ("narrative_qa", "qasper", "quality", "qmsum"):
        asked = f"Who lived there?\n\n{options}" if name == "quality" else "Who lived there?"
        rows = [
            scrolls_row("q1", FOX, asked, "a fox"),
            scrolls_row("q1", FOX, asked, "the red fox"),
            scrolls_row("q2", MILL, asked, "seven geese"),
            scrolls_row("q3", MILL, asked.replace("Who", "What"), "geese"),
        ]
        write_rows(root / "scrolls" / name, "validation", rows)
        train = [scrolls_row(f"t{i}", "Snow fell. " * (9 - i), asked, f"example {i}") for i in range(5)]
        write_rows(root / "scrolls" / name, "train", train)
    for name, output in (("space_digest", "60%"), ("quality", "(B) A goose"), ("book_sum_sort", "2, 1, 3")):
        rows = [zero_row("z1", FOX, "Which?", output), zero_row("z2", MILL, "Which?", output)]
        write_rows(root / "zero_scrolls" / name, "validation", rows)
        hidden = [{**row, "output": None} for row in rows]
        write_rows(root / "zero_scrolls" / name, "test", hidden)
    exam = {"input": FOX, "instructions": ["Who?", "Where?"], "outputs": ["A", "BC"], "evaluation": "exam"}
    write_rows(root / "l_eval" / "coursera", "test", [exam])
    return root
