"""The length report against a count of its own, and its files."""

import json

import numpy as np
import pytest
from prepare_inputs import config_of, pieces, write

from lit_long.data import TokenCorpus
from lit_long.data.length_plot import _named
from lit_long.data.length_report import length_report, markdown, write_report
from lit_long.data.prepare import Source, prepare
from lit_long.errors import UserError


@pytest.fixture(scope="module")
def corpus(books, tokenizer_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    short = write(folder / "short.jsonl", *pieces(books, 100)[:60])
    sources = (Source(path=str(books), name="books"), Source(path=short.path, name="short", license="CC0-1.0"))
    prepare(config_of(folder, tokenizer_dir, *sources, held_out=("jargon-file",)))
    return folder / "out"


def test_the_numbers_are_those_of_the_documents(corpus):
    report = length_report(corpus)
    assert report["name"] == "corpus"
    assert list(report["splits"]) == ["train", "held_out"]
    for split, counted in report["splits"].items():
        opened = TokenCorpus(corpus, split)
        lengths = np.diff(opened.starts)
        for source in [None, 0, 1]:
            own = lengths if source is None else lengths[opened.sources == source]
            part = counted if source is None else counted["sources"][source]
            assert (part["documents"], part["tokens"]) == (len(own), own.sum())
            assert sum(bucket["documents"] for bucket in part["buckets"]) == len(own)
            for bucket in part["buckets"]:
                inside = own[(own > bucket["over"]) & (own <= bucket["up_to"])]
                assert (bucket["documents"], bucket["tokens"]) == (len(inside), inside.sum())
                assert bucket["share_in_longer"] == pytest.approx(own[own > bucket["up_to"]].sum() / own.sum())
    assert [source["license"] for source in report["splits"]["train"]["sources"]] == ["public domain", "CC0-1.0"]


def test_the_files(corpus, tmp_path):
    report = length_report(corpus)
    files = write_report(report, tmp_path / "r")
    assert [file.name for file in files] == [
        "lengths.md",
        "lengths.json",
        "lengths_train.png",
        "lengths_held_out.png",
    ]
    assert json.loads(files[1].read_text()) == report
    table = [line for line in files[0].read_text().splitlines() if line.startswith("|")]
    assert len({len(line) for line in table[: len(report["splits"]["train"]["buckets"]) + 3]}) == 1  # aligned
    assert all(file.read_bytes()[:4] == b"\x89PNG" for file in files[2:])
    assert markdown(report) in files[0].read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the report"):
        write_report(report, tmp_path / "file")


def test_one_splits_own_folder(corpus):
    assert list(length_report(corpus / "held_out")["splits"]) == ["held_out"]
    with pytest.raises(UserError, match="no token corpus"):
        length_report(corpus / "nothing")


def test_many_sources_share_the_last_colour():
    bucket = {"over": 1, "up_to": 2, "tokens": 1, "share_in_longer": 0.0}
    sources = [{"name": str(n), "tokens": 100 - n, "buckets": [bucket | {"tokens": 100 - n}]} for n in range(12)]
    named = _named(sources)
    assert [source["name"] for source in named] == [*"0123456", "5 others"]
    assert sum(source["tokens"] for source in named) == sum(source["tokens"] for source in sources)
    assert named[-1]["buckets"][0]["tokens"] == sum(100 - n for n in range(7, 12))
