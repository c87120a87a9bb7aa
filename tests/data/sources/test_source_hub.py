"""Hub datasets through `datasets`, from local folders in the Hub's layout, since tests have no network."""

import json
import pickle
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lit_long.data.sources.hub as hub_module
from lit_long.data.sources import Source, plan_items, read_item
from lit_long.data.sources.parquet import plan_parquet
from lit_long.errors import UserError

ROWS = [{"id": f"d{i}", "text": f"text {i} " * (i % 7 + 1), "license": "CC0" if i % 2 else None} for i in range(700)]


def write(folder, kind):
    folder.mkdir()
    for shard in range(2):
        rows = ROWS[shard * 400 : shard * 400 + 400]
        name = folder / f"train-0000{shard}-of-00002.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), name, row_group_size=150)
        elif kind == "jsonl":
            name.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            name.write_text(
                "id,text,license\n" + "".join(f"{r['id']},{r['text']},{r['license'] or ''}\n" for r in rows)
            )
    return str(folder)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("item_bytes", [1, 3000, 1 << 20])
def test_rows_come_in_order_with_their_places(tmp_path, records, kind, item_bytes):
    hub = write(tmp_path / "data", kind)
    found = records([Source(hub=hub)], item_bytes=item_bytes)
    assert [(d.id, d.text, d.license) for d in found] == [(r["id"], r["text"], r["license"]) for r in ROWS]
    assert [d.place for d in found] == [f"{hub}#{i}" for i in range(700)]
    numbered = records([Source(hub=hub, id_field=None, max_documents=5)], item_bytes=item_bytes)
    assert [d.id for d in numbered] == [f"{hub}#{i}" for i in range(5)]


def test_items_of_a_stream_are_cut_by_the_bytes_of_text(tmp_path):
    sources = [Source(hub=write(tmp_path / "data", "jsonl"))]
    items = list(plan_items(sources, item_bytes=1000))
    longest = max(len(row["text"]) for row in ROWS)
    assert all(1000 <= item.size < 1000 + longest for item in items[:-1])
    assert sum(item.size for item in items) == sum(len(row["text"]) for row in ROWS)
    assert max(len(part.data) for item in items for part in item.parts) < 10_000  # not the buffers behind a slice
    assert [item.number for item in items] == list(range(len(items)))


def test_items_of_parquet_are_rows_that_the_worker_fetches(tmp_path, monkeypatch):
    sources = [Source(hub=write(tmp_path / "data", "parquet"))]
    with monkeypatch.context() as patch:
        patch.setattr(hub_module, "_batches", lambda source: pytest.fail("streamed by the main process"))
        items = list(plan_items(sources, item_bytes=3000))
    assert len(items) > 5
    assert max(len(pickle.dumps(item)) for item in items) < 1000
    found = [record for item in reversed(items) for record in read_item(item, sources)]
    assert sorted(int(d.place.split("#")[1]) for d in found) == list(range(700))
    assert {d.id: d.text for d in found} == {row["id"]: row["text"] for row in ROWS}


def test_parquet_behind_a_url(tmp_path):
    """The Hub's files are hf:// URLs; the same way through fsspec with a file system that is at hand."""
    write(tmp_path / "data", "parquet")
    file = tmp_path / "data" / "train-00000-of-00002.parquet"
    source = Source(hub="some/dataset")
    parts = list(plan_parquet(file.as_uri(), source, 1000, place="some/dataset", name="some/dataset", first=70))
    found = [record for part in parts for record in part.read(source, 10_000)]
    assert [(d.place, d.text) for d in found] == [(f"some/dataset#{70 + i}", ROWS[i]["text"]) for i in range(400)]
    file.unlink()
    with pytest.raises(UserError, match=r"file://.*train-00000-of-00002\.parquet: cannot be read"):
        list(plan_parquet(file.as_uri(), source, 1000, place="", name=""))


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
@pytest.mark.parametrize("asked", [1, 255, 256, 257, 399, 400, 401, 699, 700, 9999])
def test_max_documents(tmp_path, records, asked, kind):
    hub = write(tmp_path / "data", kind)
    found = records([Source(hub=hub, max_documents=asked)], item_bytes=2000)
    assert [d.id for d in found] == [row["id"] for row in ROWS[:asked]]


def test_subset_and_split(tmp_path, records):
    folder = tmp_path / "data"
    for subset in ("de", "en"):
        (folder / subset).mkdir(parents=True)
        for split in ("train", "test"):
            (folder / subset / f"{split}.jsonl").write_text(json.dumps({"text": f"{subset} {split}"}))
    configs = "".join(
        f"- config_name: {s}\n  data_files:\n  - split: train\n    path: {s}/train.jsonl\n"
        f"  - split: test\n    path: {s}/test.jsonl\n"
        for s in ("de", "en")
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    hub = str(folder)
    assert [d.text for d in records([Source(hub=hub, subset="en")])] == ["en train"]
    assert [d.text for d in records([Source(hub=hub, subset="de", split="test")])] == ["de test"]
    with pytest.raises(UserError, match=r"data: cannot be read \(.*check its id, subset, split"):
        records([Source(hub=hub)])  # has two subsets
    with pytest.raises(UserError, match="no split 'nope'; found train, test"):
        plan_items([Source(hub=hub, subset="de", split="nope")], item_bytes=1)


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_bad_rows_have_their_place(tmp_path, records, kind):
    (tmp_path / "data").mkdir()
    texts = ["a", None, " ", "a\0b", "x" * 2000, "b"]
    if kind == "parquet":
        pq.write_table(pa.table({"text": texts}), tmp_path / "data" / "train.parquet")
    else:
        (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    hub = str(tmp_path / "data")
    found = records([Source(hub=hub)], max_document_bytes=1000)
    assert [(getattr(r, "kind", ""), r.place) for r in found] == [
        (kind, f"{hub}#{i}") for i, kind in enumerate(["", "missing_text", "empty", "nul", "too_long", ""])
    ]


def test_a_dataset_without_texts_that_is_not_there_or_is_damaged(tmp_path, records):
    hub = write(tmp_path / "data", "parquet")
    for hub_ in (hub, write(tmp_path / "lines", "jsonl")):
        with pytest.raises(UserError, match=r"no column 'body'; found \['id', 'license', 'text'\]"):
            records([Source(hub=hub_, text_field="body")])
    with pytest.raises(UserError, match="dataset nobody/nothing: cannot be read"):
        plan_items([Source(hub="nobody/nothing")], item_bytes=1)
    whole = (tmp_path / "data" / "train-00001-of-00002.parquet").read_bytes()
    (tmp_path / "data" / "train-00001-of-00002.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        records([Source(hub=hub)])


def test_only_the_revision_that_was_resolved_is_read(monkeypatch):
    """One commit for a whole run, even when the branch moves meanwhile."""
    asked = []

    class Builder:
        name, config = "json", type("Config", (), {"data_files": {"test": ["a.jsonl"]}})

    def load_dataset_builder(path, name, **options):
        asked.append((path, name, options))
        return Builder

    def load_dataset(path, name, **options):
        asked.append((path, name, options))
        raise RuntimeError("no network")

    class Info:
        sha = "0123abc"

    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, dataset, revision: Info)
    hub_module.resolved_revision.cache_clear()
    source = Source(hub="some/dataset", subset="s", split="test", revision="main")
    with pytest.raises(UserError, match="no network"):
        list(plan_items([source], item_bytes=1))
    hub_module.resolved_revision.cache_clear()
    assert asked == [
        ("some/dataset", "s", {"revision": "0123abc"}),
        ("some/dataset", "s", {"split": "test", "revision": "0123abc", "streaming": True}),
    ]


def test_memory_is_that_of_an_item(tmp_path):
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "train.jsonl").open("w") as file:
        for number in range(3000):
            file.write(json.dumps({"text": f"{number} " * 4000}) + "\n")  # some 60 MB
    sources = [Source(hub=str(tmp_path / "data"))]
    tracemalloc.start()
    before, texts = pa.total_allocated_bytes(), 0
    most = 0
    for item in plan_items(sources, item_bytes=1 << 20):
        most = max(most, pa.total_allocated_bytes() - before)
        texts += sum(1 for _ in read_item(item, sources))
    python = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert texts == 3000
    # datasets reads JSON lines in blocks of 10 MB
    assert most < 45e6
    assert python < 45e6
