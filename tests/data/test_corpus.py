"""Reading a corpus: any slice of the stream, whatever chunks Arrow keeps it in, and folders that are none."""

import hashlib
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest

from lit_long.data import TokenCorpus
from lit_long.data.corpus import FORMAT
from lit_long.errors import UserError


def made(folder, documents, shards=1):
    """A corpus folder of given token lists, written with `datasets` alone."""
    rows = datasets.Dataset.from_dict(
        {"id": [f"d{i}" for i in range(len(documents))], "input_ids": documents, "source": ["s"] * len(documents)},
        features=datasets.Features(
            {
                "id": datasets.Value("string"),
                "input_ids": datasets.List(datasets.Value("int32")),
                "source": datasets.Value("string"),
            }
        ),
    )
    datasets.DatasetDict({"train": rows}).save_to_disk(str(folder), num_shards={"train": shards})
    info = {
        "format": FORMAT,
        "name": "made",
        "documents": len(documents),
        "tokens": sum(map(len, documents)),
        "fingerprint": hashlib.sha256(repr(documents).encode()).hexdigest(),
        "tokenizer": {"name": "none", "fingerprint": "0"},
    }
    (Path(folder) / "train" / "corpus.json").write_text(json.dumps(info))
    return TokenCorpus(folder)


@pytest.fixture(scope="module")
def documents():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 30_000, size=size).tolist() for size in (3, 1, 10, 7, 1, 25, 2, 4, 9)]


@pytest.fixture(scope="module", params=["one file", "a file a document", "many record batches"])
def corpus(request, documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "c"
    opened = made(folder, documents, shards=len(documents) if request.param == "a file a document" else 1)
    files = sorted((folder / "train").glob("*.arrow"))
    if request.param != "many record batches":
        assert len(files) == (1 if request.param == "one file" else len(documents))
        return opened
    # the documents of one file in record batches of two, as another writer may leave them
    (file,) = files
    with pa.memory_map(str(file)) as source:
        table = pa.ipc.open_stream(source).read_all().combine_chunks()
    with pa.OSFile(str(folder / "new"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    (folder / "new").rename(file)
    opened = TokenCorpus(folder)
    assert opened._rows.data.column("input_ids").num_chunks == 5
    return opened


def test_documents(corpus, documents):
    assert (corpus.documents, corpus.tokens) == (len(documents), sum(map(len, documents)))
    assert corpus.starts.tolist() == [0, *np.cumsum([len(d) for d in documents])]
    for index, document in enumerate(documents):
        assert corpus.document(index).tolist() == document
        assert corpus.document(index).dtype == np.int32
        assert corpus.document_id(index) == f"d{index}"
    for index in (-1, len(documents)):
        with pytest.raises(IndexError):
            corpus.document(index)


def test_every_slice_of_the_stream(corpus, documents):
    stream = [token for document in documents for token in document]
    for start in range(len(stream) + 1):
        for stop in range(start, len(stream) + 1):
            assert corpus.read(start, stop).tolist() == stream[start:stop]
    assert corpus.read(5, 9).dtype == np.int64
    for start, stop in ((-1, 3), (3, 2), (0, len(stream) + 1)):
        with pytest.raises(IndexError):
            corpus.read(start, stop)


def test_documents_are_views_of_the_mapped_file(corpus_dir):
    corpus = TokenCorpus(corpus_dir)
    with pytest.raises(ValueError, match="read-only"):
        corpus.document(0)[0] = 1
    assert corpus.document(1).base is not None
    copy = corpus.read(0, 10)
    copy[:] = -1  # what is handed out is the caller's
    assert corpus.read(0, 10).min() >= 0


def test_held_out_documents_are_really_apart(corpus_dir):
    train, held_out = TokenCorpus(corpus_dir), TokenCorpus(corpus_dir, "held_out")
    assert {train.document_id(i) for i in range(train.documents)}.isdisjoint({held_out.document_id(0)})
    assert (train.documents, held_out.documents) == (3, 1)
    stream = train.read(0, train.tokens).astype(np.int32).tobytes()
    for start in range(0, held_out.tokens - 50, 50):
        assert held_out.document(0)[start : start + 50].tobytes() not in stream


def test_one_splits_own_folder(corpus_dir):
    own = TokenCorpus(f"{corpus_dir}/held_out")
    assert own.fingerprint == TokenCorpus(corpus_dir, "held_out").fingerprint
    # asking the training documents for the held-out ones must not give the training documents
    with pytest.raises(UserError, match="no token corpus with a split 'held_out' here"):
        TokenCorpus(f"{corpus_dir}/train", "held_out")


def test_folders_that_are_no_corpus(corpus_dir, tmp_path):
    with pytest.raises(UserError, match="make one with: lit-long prepare"):
        TokenCorpus(tmp_path)
    with pytest.raises(UserError, match="lit-long prepare"):
        TokenCorpus(tmp_path / "nothing")
    with pytest.raises(
        UserError, match=r"no token corpus with a split 'test' here; its splits are \['held_out', 'train'\]"
    ):
        TokenCorpus(corpus_dir, "test")


@pytest.mark.parametrize("damage", ["count", "data gone", "data cut", "not json", "newer"])
def test_damaged_and_newer_folders(corpus_dir, tmp_path, damage):
    folder = tmp_path / "c"
    shutil.copytree(corpus_dir, folder)
    about = folder / "train" / "corpus.json"
    (data,) = (folder / "train").glob("*.arrow")
    info = json.loads(about.read_text())
    if damage == "count":
        about.write_text(json.dumps(info | {"tokens": info["tokens"] - 1}))
    elif damage == "data gone":
        data.unlink()
    elif damage == "data cut":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif damage == "not json":
        about.write_text("{")
    else:
        about.write_text(json.dumps(info | {"format": FORMAT + 1}))
    expected = "is newer than this lit-long" if damage == "newer" else "the folder is damaged: remove it and run"
    with pytest.raises(UserError, match=expected):
        TokenCorpus(folder)
