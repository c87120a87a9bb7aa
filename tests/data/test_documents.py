"""Subsets of a corpus as streams of their own, in memory and as files."""

import numpy as np
import pytest

from lit_long.data import documents as module
from lit_long.data.documents import DocumentSet, Selection
from tests.data.fakes import FakeCorpus

LENGTHS = [5, 1, 17, 8, 30, 1, 1, 3]
SOURCES = [0, 1, 0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("in_files", [False, True])
@pytest.mark.parametrize(
    "selection",
    [Selection("s0"), Selection(None, 2, 17), Selection("s1", 0, 1), Selection(None, 17), Selection(None, 0, 0)],
)
def test_a_selection_is_its_documents_in_order(selection, in_files, tmp_path, monkeypatch):
    corpus = FakeCorpus(LENGTHS, SOURCES)
    corpus.path = tmp_path
    if in_files:
        monkeypatch.setattr(module, "_IN_MEMORY", 0)
        monkeypatch.setattr(module, "_CHUNK", 3)
    chosen = [
        i for i, (n, s) in enumerate(zip(LENGTHS, SOURCES, strict=True))
        if n > selection.above and n <= (selection.up_to if selection.up_to is not None else 99)
        and selection.source in (None, f"s{s}")
    ]  # fmt: skip
    found = DocumentSet(corpus, selection)
    assert len(found) == len(chosen)
    assert found.corpus_documents(np.arange(len(found))).tolist() == chosen
    assert np.diff(found.starts).tolist() == [LENGTHS[i] for i in chosen]
    if in_files and chosen:
        assert isinstance(found.starts, np.memmap)
        assert [p.name for p in sorted((tmp_path / "index").rglob("*.int64"))] == ["documents.int64", "starts.int64"]
        again = DocumentSet(corpus, selection)  # from the files
        assert np.array_equal(again.starts, found.starts)
        assert [p.name for p in (tmp_path / "index").iterdir() if "." in p.name] == []  # nothing half-made


def test_pieces_go_round_the_ring():
    documents = DocumentSet(FakeCorpus(LENGTHS, SOURCES), Selection("s1"))  # documents 1, 3, 6 with 1, 8, 1 tokens
    ring = [(1, 0), *[(3, i) for i in range(8)], (6, 0)]
    for position in range(10):
        for length in (1, 2, 9, 10, 11, 25):
            tokens = [(d, i) for d, a, b in documents.pieces(position, length).tolist() for i in range(a, b)]
            assert tokens == [ring[(position + i) % 10] for i in range(length)]


def test_an_index_that_cannot_be_written_beside_the_corpus_goes_to_the_cache(tmp_path, monkeypatch):
    corpus = FakeCorpus(LENGTHS, SOURCES)
    corpus.path = tmp_path / "corpus"  # not there, so not writable
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_IN_MEMORY", 0)
    assert len(DocumentSet(corpus, Selection("s1"))) == 3
    assert list((tmp_path / "cache" / "lit_long" / "index").glob("*/starts.int64"))
    other = FakeCorpus(LENGTHS, SOURCES, fingerprint="another corpus")
    other.path = corpus.path
    DocumentSet(other, Selection("s1"))
    assert len(list((tmp_path / "cache" / "lit_long" / "index").glob("*/starts.int64"))) == 2
