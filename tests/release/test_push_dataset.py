"""Publishing data: the corpus that arrives is the one that was prepared."""

import json
import shutil

import numpy as np
import pytest

from lit_long.data import TokenCorpus
from lit_long.errors import UserError
from lit_long_hub import pull_release, push_dataset
from lit_long_hub.push_data import is_corpus


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A corpus made by the command line from a book that ships with the repository."""
    from lit_long.entry import main

    folder = tmp_path_factory.mktemp("prepared")
    text = "It is a truth universally acknowledged, that a long book wants a long context. " * 200
    (folder / "a.txt").write_text(text)
    (folder / "b.txt").write_text(text[100:])
    arguments = ["prepare", "--source", str(folder / "a.txt"), "--source", str(folder / "b.txt")]
    arguments += ["--tokenizer", "recipes/assets/quickstart/base", "--output", str(folder / "corpus")]
    assert main([*arguments, "--processes", "1"]) == 0
    return folder / "corpus"


@pytest.fixture
def corpus(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "corpus")


def test_a_corpus_arrives_whole(hub, corpus, tmp_path):
    assert is_corpus(corpus)
    done = push_dataset(corpus, "acme/books", tag="v1", endpoint=hub.url, token="hf_writer")
    assert done.private
    there = pull_release("datasets/acme/books@v1", tmp_path / "there", endpoint=hub.url, token="hf_writer")
    ours, theirs = TokenCorpus(corpus), TokenCorpus(there.folder)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.tokens == theirs.tokens
    assert np.array_equal(ours.starts, theirs.starts)
    for split in json.loads((corpus / "dataset_dict.json").read_text())["splits"]:
        for path in (corpus / split).glob("*.arrow"):
            assert path.read_bytes() == (there.folder / split / path.name).read_bytes()
    card = (there.folder / "README.md").read_text()
    assert f"{ours.tokens:,}" in card
    assert "recipes/assets" not in card


def test_a_damaged_shard_is_not_published(hub, corpus):
    shard = next(corpus.glob("train/*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match="is not the file that was proved"):
        push_dataset(corpus, "acme/books", endpoint=hub.url, token="hf_writer")
    shard.unlink()
    with pytest.raises(UserError, match="lacks train/"):
        push_dataset(corpus, "acme/books", endpoint=hub.url, token="hf_writer")


def test_for_everybody_needs_a_licence(hub, corpus):
    with pytest.raises(UserError, match="needs a licence"):
        push_dataset(corpus, "acme/books", public=True, endpoint=hub.url, token="hf_writer")
    done = push_dataset(corpus, "acme/books", public=True, license="cc0-1.0", endpoint=hub.url, token="hf_writer")
    assert not done.private


def test_json_lines(hub, tmp_path):
    folder = tmp_path / "synthesized"
    folder.mkdir()
    (folder / "qa.jsonl").write_text('{"q": 1}\n{"q": 2}\n')
    push_dataset(folder, "acme/qa", endpoint=hub.url, token="hf_writer", languages=["en"])
    tree = hub.store.repos["datasets", "acme/qa"].head().tree
    assert b"| qa.jsonl | 2 |" in hub.store.bytes_of(tree["README.md"])
    (folder / "qa.jsonl").write_text('{"q": 1}\nnot json\n')
    with pytest.raises(UserError, match="line 2 is no JSON"):
        push_dataset(folder, "acme/qa", endpoint=hub.url, token="hf_writer")


def test_synthesized_pairs(hub, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "pairs"
    (folder / "data").mkdir(parents=True)
    (folder / ".journal").mkdir()
    (folder / ".journal" / "00000-of-00001.jsonl").write_text('{"raw": "not for everybody"}\n')
    report = {"outcomes": {"accepted": 2, "rejected": 1, "failed": 0, "skipped": 0}, "rejected": {"no_tags": 1}}
    report |= {"questions": 3, "generator": "some-chat-model", "target_length": 4096}
    (folder / "report.json").write_text(json.dumps(report))
    table = pa.table({"messages": [[{"role": "user", "content": "q"}]] * 2})
    pq.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    assert is_corpus(folder)
    push_dataset(folder, "acme/pairs", endpoint=hub.url, token="hf_writer")
    tree = hub.store.repos["datasets", "acme/pairs"].head().tree
    assert sorted(path for path in tree if "journal" in path) == []
    card = hub.store.bytes_of(tree["README.md"]).decode()
    assert "| data/train-00000-of-00001.parquet | 2 |" in card
    assert "2 accepted, 1 rejected (no_tags 1)" in card
    secret = pa.table({"messages": [[{"role": "user", "content": "hf_" + "a" * 34}]]})
    pq.write_table(secret, folder / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(UserError, match="holds an access token"):
        push_dataset(folder, "acme/pairs", endpoint=hub.url, token="hf_writer")
