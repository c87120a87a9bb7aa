"""One process or many, one machine or many: the same corpus, byte for byte; and the tokenizer's own ids."""

import os
from dataclasses import replace

import pytest
import tokenizers
from prepare_inputs import config_of, content, left, pieces, write

import lit_long.data.prepare.pool as pool_module
from lit_long.data import TokenCorpus
from lit_long.data.prepare import finish, prepare, tokenize_items
from lit_long.data.prepare.encoder import Encoder, encoder_spec
from lit_long.data.prepare.facts import facts_of
from lit_long.data.tokenizer import load_tokenizer
from lit_long.errors import UserError

ITEM_BYTES = 8_000


@pytest.fixture(scope="module")
def documents(books):
    return pieces(books)


@pytest.fixture(scope="module")
def source(documents, tmp_path_factory):
    return write(tmp_path_factory.mktemp("source") / "pieces.jsonl", *documents)


@pytest.fixture(scope="module")
def alone(source, tokenizer_dir, tmp_path_factory):
    """The corpus as one process makes it, with documents held out of two different items."""
    folder = tmp_path_factory.mktemp("alone")
    prepare(config_of(folder, tokenizer_dir, source, held_out=HELD_OUT, item_bytes=ITEM_BYTES, processes=1))
    return folder / "out"


HELD_OUT = ("persuasion-3", "jargon-file-0")


def test_items_become_files_and_the_order_is_the_sources(alone, documents, tokenizer_dir):
    encode = tokenizers.Tokenizer.from_file(f"{tokenizer_dir}/tokenizer.json").encode
    for split, held_out in (("train", False), ("held_out", True)):
        corpus = TokenCorpus(alone, split)
        expected = [(id_, text) for id_, text in documents if (id_ in HELD_OUT) == held_out]
        assert [corpus.document_id(i) for i in range(corpus.documents)] == [id_ for id_, _ in expected]
        for index, (_, text) in enumerate(expected):
            assert corpus.document(index).tolist() == [*encode(text).ids, 0]
    assert len(TokenCorpus(alone).info["shards"]) > 8
    assert len(TokenCorpus(alone, "held_out").info["shards"]) == 2


@pytest.mark.parametrize("processes", [2, 4])
def test_the_corpus_does_not_depend_on_the_processes(alone, source, tokenizer_dir, tmp_path, monkeypatch, processes):
    started, own = [], pool_module._Worker
    monkeypatch.setattr(pool_module, "_Worker", lambda *args: started.append(args) or own(*args))
    config = config_of(tmp_path, tokenizer_dir, source, held_out=HELD_OUT, item_bytes=ITEM_BYTES, processes=processes)
    prepare(config)
    assert len(started) == processes
    assert content(tmp_path / "out") == content(alone)
    assert left(tmp_path) == ["out"]


def test_another_cut_into_items_gives_the_same_stream(alone, source, tokenizer_dir, tmp_path):
    prepare(config_of(tmp_path, tokenizer_dir, source, held_out=HELD_OUT, item_bytes=3 * ITEM_BYTES, processes=1))
    for split in ("train", "held_out"):
        one, other = TokenCorpus(alone, split), TokenCorpus(tmp_path / "out", split)
        assert one.fingerprint == other.fingerprint
        assert one.starts.tolist() == other.starts.tolist()
        assert (one.read(0, one.tokens) == other.read(0, other.tokens)).all()


def test_machines_share_the_work(alone, source, tokenizer_dir, tmp_path):
    config = config_of(tmp_path, tokenizer_dir, source, held_out=HELD_OUT, item_bytes=ITEM_BYTES, processes=1)
    with pytest.raises(UserError, match="no work to finish here; run tokenize_items"):
        finish(config)
    tokenize_items(config, rank=2, world_size=3)
    tokenize_items(config, rank=0, world_size=3)
    with pytest.raises(UserError, match=r"\d+ of \d+ items are not done yet, the first is 1"):
        finish(config)
    reports = []
    tokenize_items(config, rank=1, world_size=3, progress=reports.append)
    assert reports[0].found_items > 4
    tokenize_items(config, rank=1, world_size=3)  # nothing is left to do
    assert finish(config).splits["train"].documents == TokenCorpus(alone).documents
    assert content(tmp_path / "out") == content(alone)
    assert left(tmp_path) == ["out"]
    assert finish(config).reused
    tokenize_items(config, rank=1, world_size=3)
    assert left(tmp_path) == ["out"]
    with pytest.raises(UserError, match="rank is 3; it must be between 0 and 2"):
        tokenize_items(config, rank=3, world_size=3)


def test_the_size_of_items_follows_from_the_inputs(tmp_path, tokenizer_dir):
    config = config_of(tmp_path, tokenizer_dir, write(tmp_path / "small.jsonl", ("a", "b")))
    facts = facts_of(config)
    for inputs, expected in ((1 << 20, 1 << 20), (1 << 29, 2 << 20), (1 << 40, 128 << 20)):
        large = replace(facts, inputs=[{"files": [["f.jsonl", inputs, ""]]}])
        assert large.item_bytes(config) == large.item_bytes(replace(config, processes=64)) == expected
    assert facts.item_bytes(replace(config, item_bytes=77)) == 77


def test_the_encoder_gives_the_ids_of_the_tokenizer(tokenizer_dir, documents):
    tokenizer = load_tokenizer(tokenizer_dir)
    texts = [text for _, text in documents] + ["", "a", "\u00e9\U0001f600 <|endoftext|> x", " \n\t ", "a" * 5_000]
    ours = Encoder(encoder_spec(tokenizer)).encode(texts)
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert [ids.tolist() for ids in ours] == [[*ids, tokenizer.eos_token_id] for ids in expected]


def test_the_callers_settings_of_threads_are_left_as_they_were(tmp_path, tokenizer_dir, monkeypatch):
    source = write(tmp_path / "a.jsonl", ("x", "one"))
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    prepare(config_of(tmp_path, tokenizer_dir, source))
    assert "TOKENIZERS_PARALLELISM" not in os.environ
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    prepare(config_of(tmp_path, tokenizer_dir, source, output="other"))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
