"""Parquet against the same rows as JSON lines, and the errors of files that are none."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lit_long.data.sources import Source, plan_items
from lit_long.errors import UserError


@pytest.fixture
def rows(books):
    rows = [json.loads(line) for line in books.read_text(encoding="utf-8").splitlines()]
    return [*rows, {"id": None, "license": None, "text": "naïve — 日本 🙂"}, {"id": "", "license": "CC0", "text": "b"}]


def test_parquet_gives_what_json_lines_give(tmp_path, rows, records):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [(d.text, d.license) for d in records(tmp_path / "a.jsonl", license="other")]
    ids = [row["id"] or f"a.parquet#{i}" for i, row in enumerate(rows)]
    table = pa.Table.from_pylist(rows)
    kinds = {
        "string": pa.string(),
        "large": pa.large_string(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
        "binary": pa.binary(),
    }
    for name, kind in kinds.items():
        path = tmp_path / name / "a.parquet"
        path.parent.mkdir()
        column = table["text"].combine_chunks()
        column = column.dictionary_encode() if name == "dictionary" else column.cast(kind)
        written = table.set_column(table.column_names.index("text"), "text", column)
        for compression in ("zstd", "snappy", "none"):
            pq.write_table(written, path, row_group_size=2, compression=compression)
            found = records(path, license="other", item_bytes=20_000)
            assert [(d.text, d.license) for d in found] == expected
            assert [d.id for d in found] == ids


def test_named_columns_and_ids_that_are_numbers(tmp_path, records):
    table = pa.table({"key": [7, None], "body": ["a", "b"], "text": ["x", "y"], "deep": [{"text": "z"}] * 2})
    pq.write_table(table, tmp_path / "a.parquet")
    found = records(tmp_path / "a.parquet", text_field="body", id_field="key")
    assert [(d.id, d.text) for d in found] == [("7", "a"), ("a.parquet#1", "b")]


def test_items_follow_the_bytes_of_text_not_of_other_columns(tmp_path):
    texts = [f"{i:04d}" * 250 for i in range(1000)]  # 1 MB
    table = pa.table({"text": texts, "vector": [[float(i)] * 500 for i in range(1000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=400, use_dictionary=False)
    items = list(plan_items([Source(path=str(tmp_path / "a.parquet"))], item_bytes=100_000))
    assert len(items) == 10
    assert all(90_000 < item.size < 110_000 for item in items)
    spans = [(part.first + part.begin, part.first + part.end) for item in items for part in item.parts]
    assert [row for span in spans for row in range(*span)] == list(range(1000))


def test_an_empty_table_and_a_column_of_nulls(tmp_path, records):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    assert records(tmp_path / "a.parquet") == []
    pq.write_table(pa.table({"text": pa.nulls(2)}), tmp_path / "a.parquet")
    assert [r.kind for r in records(tmp_path / "a.parquet")] == ["missing_text"] * 2


def test_a_table_without_texts_is_an_error_of_the_whole_source(tmp_path, records):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": ["a"], "text_2": ["b"]}), path)
    with pytest.raises(UserError) as caught:
        records(path)
    assert str(caught.value) == (
        f"{path}: no column 'text'; found ['content', 'text_2']. Name the column with text_field"
    )
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(UserError, match="column 'text' holds int64, not text; name another with text_field"):
        records(path)


@pytest.mark.parametrize("damage", ["cut short", "no footer", "garbage", "empty", "damaged page"])
def test_damaged_files(tmp_path, records, damage):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{i} {i * 7919}" for i in range(5000)]}), path)
    whole = path.read_bytes()
    damaged = {
        "cut short": whole[: len(whole) // 2],
        "no footer": whole[:-1],
        "garbage": b"no table at all, but long enough",
        "empty": b"",
        "damaged page": whole[:4] + b"\xff" * 3000 + whole[3004:],
    }[damage]
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read"):
        records(path)
