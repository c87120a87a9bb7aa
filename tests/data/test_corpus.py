"""Reading a corpus: any slice of the stream, whatever chunks Arrow keeps it in, and folders that are none."""

import json
import pickle
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pytest
from made_corpus import made

import lit_long.data.corpus as corpus_module
from lit_long.data import TokenCorpus
from lit_long.data.corpus import FORMAT
from lit_long.data.corpus_shard import MappedShard
from lit_long.errors import UserError


@pytest.fixture(scope="module")
def documents():
    draw = np.random.default_rng(0)
    return [draw.integers(0, 30_000, size=size).tolist() for size in (3, 1, 10, 7, 1, 25, 2, 4, 9)]


@pytest.fixture(scope="module", params=["one file", "a file a document", "many record batches"])
def corpus(request, documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "c"
    if request.param == "many record batches":
        opened = made(folder, documents, shards=2, batch_tokens=4)
    else:
        opened = made(folder, documents, shards=len(documents) if request.param == "a file a document" else 1)
    batches = [pa.ipc.open_stream(file.read_bytes()).read_all().column("id").num_chunks for file in files_of(folder)]
    assert batches == {"one file": [1], "a file a document": [1] * 9, "many record batches": [4, 3]}[request.param]
    return opened


def files_of(folder):
    return sorted((folder / "train").glob("*.arrow"))


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


def test_every_span_of_every_document(corpus, documents):
    for index, document in enumerate(documents):
        for begin in range(len(document) + 1):
            for end in range(begin, len(document) + 1):
                assert corpus.span(index, begin, end).tolist() == document[begin:end]
        for begin, end in ((-1, 1), (1, 0), (0, len(document) + 1)):
            with pytest.raises(IndexError):
                corpus.span(index, begin, end)
    with pytest.raises(ValueError, match="read-only"):
        corpus.span(2, 1, 3)[0] = 1


def test_sources_of_documents(tmp_path, documents):
    sources = [0, 0, 2, 1, 0, 2, 2, 0, 1]
    corpus = made(tmp_path / "c", documents, shards=3, sources=sources)
    assert corpus.source_names == ["s0", "s1", "s2"]
    assert (corpus.sources.tolist(), corpus.sources.dtype) == (sources, np.uint16)
    rows = datasets.load_from_disk(str(tmp_path / "c"))["train"]
    assert rows["source"][:] == [f"s{i}" for i in sources]
    assert rows["input_ids"][:] == documents


def test_opening_reads_no_data_and_few_files_stay_open(tmp_path, documents, monkeypatch):
    opened = []
    monkeypatch.setattr(corpus_module, "OPEN_SHARDS", 2)
    monkeypatch.setattr(corpus_module, "MappedShard", lambda file: opened.append(file.name) or MappedShard(file))
    corpus = made(tmp_path / "c", documents, shards=9)
    assert opened == []
    views = [corpus.document(i) for i in range(9)]
    assert len(opened) == len(set(opened)) == 9
    assert corpus._shard.cache_info().currsize == 2
    assert [view.tolist() for view in views] == documents  # a view outlives the closing of its file


def test_a_pickled_corpus_maps_the_files_again(tmp_path, documents):
    corpus = made(tmp_path / "c", documents)
    packed = pickle.dumps(corpus)
    assert len(packed) < 500  # the path, not the arrays
    assert pickle.loads(packed).read(0, corpus.tokens).tolist() == corpus.read(0, corpus.tokens).tolist()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("count", r"corpus.json says \d+ tokens, its list of files"),
        ("data gone", r"data-00000-of-00001.arrow: No such file"),
        ("data cut", r"data-00000-of-00001.arrow: expected \d+ bytes, found"),
        ("starts gone", "starts.npy: No such file"),
        ("starts cut", r"starts.npy: .*; the folder is damaged"),
        ("starts of another corpus", r"starts.npy: expected int64 \[4\], found int64 \[3\]"),
        ("sources of another kind", r"sources.npy: expected uint16 \[3\], found int32 \[3\]"),
        ("not json", "corpus.json is not JSON"),
        ("no format", "corpus.json names no format"),
        ("newer", "is newer than this lit-long"),
        ("older", "format 1 was written by an older lit-long, this one reads 2; remove the folder and run"),
    ],
)
def test_folders_that_cannot_be_used(corpus_dir, tmp_path, damage, expected):
    folder = tmp_path / "c"
    shutil.copytree(corpus_dir, folder)
    train = folder / "train"
    about = train / "corpus.json"
    (data,) = train.glob("*.arrow")
    info = json.loads(about.read_text())
    if damage == "count":
        about.write_text(json.dumps(info | {"tokens": info["tokens"] - 1}))
    elif damage == "data gone":
        data.unlink()
    elif damage == "data cut":
        data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    elif damage == "starts gone":
        (train / "starts.npy").unlink()
    elif damage == "starts cut":
        (train / "starts.npy").write_bytes((train / "starts.npy").read_bytes()[:-8])
    elif damage == "starts of another corpus":
        np.save(train / "starts.npy", np.zeros(3, dtype=np.int64))
    elif damage == "sources of another kind":
        np.save(train / "sources.npy", np.zeros(3, dtype=np.int32))
    elif damage == "not json":
        about.write_text("{")
    elif damage == "no format":
        about.write_text("{}")
    else:
        about.write_text(json.dumps(info | {"format": FORMAT + 1 if damage == "newer" else 1}))
    with pytest.raises(UserError, match=expected) as caught:
        TokenCorpus(folder)
    if damage not in ("newer", "older"):
        assert "the folder is damaged: remove it and run" in str(caught.value)


@pytest.mark.parametrize("damage", ["zeros", "rows of another file"])
def test_a_file_of_the_right_size_with_other_content_is_found_when_it_is_read(tmp_path, documents, damage):
    corpus = made(tmp_path / "c", documents, shards=2)
    _, second = files_of(tmp_path / "c")
    if damage == "zeros":
        second.write_bytes(bytes(second.stat().st_size))
    else:
        other = made(tmp_path / "other", [[1], [2]])
        content = files_of(tmp_path / "other")[0].read_bytes()
        second.write_bytes(content.ljust(second.stat().st_size, b"\0"))
        assert other.documents == 2
    corpus = TokenCorpus(tmp_path / "c")
    assert corpus.document(0).tolist() == documents[0]
    with pytest.raises(UserError, match=r"data-00001-of-00002.arrow: .*the folder is damaged"):
        corpus.document(8)
