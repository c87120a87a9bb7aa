"""Raw text to a token corpus: the tokens against the tokenizer, the folder against `datasets`, and every refusal."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import tokenizers
import transformers

import lit_long.data.prepare.assemble as assemble_module
import lit_long.data.prepare.item_writer as item_writer_module
import lit_long.data.prepare.run as run_module
from lit_long.data import TokenCorpus
from lit_long.data.prepare import PrepareConfig, Source, prepare
from lit_long.data.tokenizer import adds_bos, load_tokenizer, tokenizer_fingerprint
from lit_long.errors import UserError

HELD_OUT = "alice-in-wonderland"


@pytest.fixture(scope="module")
def rows(books):
    return [json.loads(line) for line in books.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def bos_tokenizer_dir(tmp_path_factory):
    """A tokenizer as Llama's: BOS of its own in front, another EOS behind, truncation left in the file."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token=None))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(["some words of a text"], trainer)
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    inner.enable_truncation(5)
    folder = tmp_path_factory.mktemp("tokenizer")
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    return str(folder)


def write(path, *documents):
    path.write_text("".join(json.dumps({"id": id_, "text": text}) + "\n" for id_, text in documents))
    return Source(path=str(path))


def config_of(tmp_path, tokenizer_dir, *sources, **options):
    return PrepareConfig(tokenizer=tokenizer_dir, sources=sources, output=str(tmp_path / "out"), **options)


def left(folder):
    return sorted(p.name for p in folder.iterdir())


def same_but_for_the_name(one, other):
    """Byte for byte the same corpus, but for its name (the folder's)."""
    files = [sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file()) for folder in (one, other)]
    assert files[0] == files[1]
    for file in files[0]:
        contents = [(folder / file).read_bytes() for folder in (one, other)]
        if file.name == "corpus.json":
            contents = [json.loads(content) | {"name": ""} for content in contents]
        assert contents[0] == contents[1], file


def test_tokens_are_the_tokenizers_with_eos(corpus_dir, rows, tokenizer_dir):
    tokenizer = tokenizers.Tokenizer.from_file(f"{tokenizer_dir}/tokenizer.json")
    eos = tokenizer.token_to_id("<|endoftext|>")
    expected = {row["id"]: [*tokenizer.encode(row["text"]).ids, eos] for row in rows}
    for split in ("train", "held_out"):
        corpus = TokenCorpus(corpus_dir, split)
        ids = [corpus.document_id(i) for i in range(corpus.documents)]
        assert ids == [row["id"] for row in rows if (row["id"] == HELD_OUT) == (split == "held_out")]
        for index, id_ in enumerate(ids):
            assert corpus.document(index).tolist() == expected[id_]
        assert corpus.tokens == sum(len(expected[id_]) for id_ in ids)


def test_bos_is_kept_when_the_tokenizer_adds_it_and_nothing_is_truncated(tmp_path, bos_tokenizer_dir, tokenizer_dir):
    text = "some words of a text, and more of them than the tokenizer file would let through"
    source = write(tmp_path / "a.jsonl", ("x", text), ("y", "b"))
    prepare(config_of(tmp_path, bos_tokenizer_dir, source))
    corpus = TokenCorpus(tmp_path / "out")
    inner = tokenizers.Tokenizer.from_file(f"{bos_tokenizer_dir}/tokenizer.json")
    inner.no_truncation()
    assert corpus.document(0).tolist() == inner.encode(text).ids  # its template is BOS, text, EOS: each once
    assert corpus.document(1).tolist() == inner.encode("b").ids
    assert len(corpus.document(0)) > 20
    assert corpus.info["tokenizer"]["bos"] is True
    assert adds_bos(load_tokenizer(tokenizer_dir)) is False


def test_datasets_opens_the_folder_with_the_same_tokens(corpus_dir):
    whole = datasets.load_from_disk(corpus_dir)
    assert isinstance(whole, datasets.DatasetDict)
    assert set(whole) == {"train", "held_out"}
    for split, rows in whole.items():
        alone = datasets.load_from_disk(f"{corpus_dir}/{split}")
        corpus = TokenCorpus(corpus_dir, split)
        assert TokenCorpus(f"{corpus_dir}/{split}", split).fingerprint == corpus.fingerprint
        assert rows.column_names == alone.column_names == ["id", "input_ids", "source"]
        assert rows["id"][:] == alone["id"][:] == [corpus.document_id(i) for i in range(corpus.documents)]
        for index in range(len(rows)):
            assert rows[index]["input_ids"] == alone[index]["input_ids"] == corpus.document(index).tolist()
        assert set(rows["source"]) == {"books.jsonl"}


def test_counts(corpus_dir, rows):
    info = json.loads(Path(corpus_dir, "train", "corpus.json").read_text())
    corpus = TokenCorpus(corpus_dir)
    lengths = [len(corpus.document(i)) for i in range(corpus.documents)]
    characters = sum(len(row["text"]) for row in rows if row["id"] != HELD_OUT)
    assert info["counts"] == {
        "documents": 3,
        "tokens": sum(lengths),
        "characters": characters,
        "longest": max(lengths),
    }
    (source,) = info["sources"]
    assert (source["name"], source["documents"], source["tokens"]) == ("books.jsonl", 3, sum(lengths))
    assert (source["license"], source["length_histogram"]) == ("public domain", info["length_histogram"])
    assert info["license"] == "public domain"
    for bound, (documents, tokens) in info["length_histogram"].items():
        inside = [n for n in lengths if int(bound) // 2 < n <= int(bound)]
        assert (documents, tokens) == (len(inside), sum(inside))
    assert sum(documents for documents, _ in info["length_histogram"].values()) == 3


def test_several_sources_are_counted_under_their_names(tmp_path, tokenizer_dir):
    one, two = write(tmp_path / "1.jsonl", ("a", "text one")), write(tmp_path / "2.jsonl", ("b", "two"), ("c", "three"))
    two = Source(path=two.path, name="second")
    progress = []
    result = prepare(config_of(tmp_path, tokenizer_dir, one, two, name="mine", license="CC0"), progress.append)
    corpus = TokenCorpus(tmp_path / "out")
    assert [corpus.document_id(i) for i in range(3)] == ["a", "b", "c"]
    assert corpus.source_names == ["1.jsonl", "second"]
    assert corpus.sources.tolist() == [0, 1, 1]
    assert [(s["documents"], s["tokens"]) for s in corpus.info["sources"]] == [
        (1, len(corpus.document(0))),
        (2, len(corpus.document(1)) + len(corpus.document(2))),
    ]
    assert (corpus.name, corpus.info["license"], result.reused) == ("mine", "CC0", False)
    assert result.splits["train"].characters == len("text one" + "two" + "three")
    last = progress[-1]
    assert (last.documents, last.tokens, last.items, last.bad_rows) == (3, corpus.tokens, 2, 0)
    assert last.done_bytes == last.total_bytes == sum((tmp_path / f"{n}.jsonl").stat().st_size for n in (1, 2))
    assert [p.done_bytes for p in progress] == sorted(p.done_bytes for p in progress)
    assert list(result.splits) == ["train"]
    assert left(tmp_path / "out") == ["dataset_dict.json", "train"]


def test_batches_do_not_show_in_the_corpus(tmp_path, books, tokenizer_dir, corpus_dir, monkeypatch):
    monkeypatch.setattr(item_writer_module, "BATCH_CHARS", 1000)
    prepare(config_of(tmp_path, tokenizer_dir, Source(path=str(books)), held_out=(HELD_OUT,)))
    for split in ("train", "held_out"):
        assert TokenCorpus(tmp_path / "out", split).fingerprint == TokenCorpus(corpus_dir, split).fingerprint


def test_fingerprint_follows_ids_and_text(tmp_path, tokenizer_dir):
    def fingerprint(name, *documents):
        source = write(tmp_path / f"{name}.jsonl", *documents)
        output = str(tmp_path / name)
        prepare(PrepareConfig(tokenizer=tokenizer_dir, sources=(source,), output=output))
        return TokenCorpus(output).fingerprint

    first = fingerprint("a", ("x", "one two"), ("y", "three"))
    assert fingerprint("b", ("x", "one two"), ("y", "three")) == first
    others = {
        fingerprint("c", ("x", "one two"), ("y", "four")),
        fingerprint("d", ("x", "one two"), ("z", "three")),
        fingerprint("e", ("y", "three"), ("x", "one two")),
        fingerprint("f", ("x", "one"), ("y", " twothree")),
    }
    assert len(others | {first}) == 5


def test_same_inputs_are_used_again_and_others_refused(tmp_path, tokenizer_dir, monkeypatch):
    source = write(tmp_path / "a.jsonl", ("x", "one"), ("y", "two"))
    config = config_of(tmp_path, tokenizer_dir, source)
    first = prepare(config)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "load_tokenizer", lambda name: pytest.fail("the work was done again"))
        again = prepare(config)
    assert (first.reused, again.reused) == (False, True)
    assert first.splits == again.splits

    before = (tmp_path / "out/train/corpus.json").read_bytes()
    other_settings = config_of(tmp_path, tokenizer_dir, source, held_out=("x",))
    changed = write(tmp_path / "a.jsonl", ("x", "one"), ("y", "three"))
    for config in (other_settings, config_of(tmp_path, tokenizer_dir, changed)):
        with pytest.raises(UserError, match="made from other sources or settings; remove it or choose another"):
            prepare(config)
    assert (tmp_path / "out/train/corpus.json").read_bytes() == before


def test_another_tokenizer_file_is_another_input(tmp_path, tokenizer_dir):
    own = tmp_path / "tokenizer"
    shutil.copytree(tokenizer_dir, own)
    source = write(tmp_path / "a.jsonl", ("x", "one"))
    prepare(config_of(tmp_path, str(own), source))
    os.utime(own / "tokenizer.json", (1, 1))
    assert prepare(config_of(tmp_path, str(own), source)).reused  # the content counts, not the time
    settings = json.loads((own / "tokenizer.json").read_text())
    settings["added_tokens"][0]["special"] = False
    (own / "tokenizer.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="made from other sources or settings"):
        prepare(config_of(tmp_path, str(own), source))


def test_foreign_folder_is_left_alone_and_empty_one_is_used(tmp_path, tokenizer_dir):
    source = write(tmp_path / "a.jsonl", ("x", "one"))
    output = tmp_path / "out"
    output.mkdir()
    assert prepare(config_of(tmp_path, tokenizer_dir, source)).reused is False
    shutil.rmtree(output)
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no token corpus"):
        prepare(config_of(tmp_path, tokenizer_dir, source))
    assert left(output) == ["thesis.txt"]
    shutil.rmtree(output)
    output.write_text("a file")
    with pytest.raises(UserError, match="exists and is no token corpus"):
        prepare(config_of(tmp_path, tokenizer_dir, source))
    assert output.read_text() == "a file"


@pytest.mark.parametrize("when", ["while reading", "while saving", "at the last move"])
def test_a_run_that_ends_early_leaves_no_corpus(tmp_path, tokenizer_dir, monkeypatch, when):
    source = write(tmp_path / "a.jsonl", ("x", "one"), ("y", "two"))

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if when == "while reading":
            patch.setattr(item_writer_module, "read_item", stop)
        elif when == "while saving":
            patch.setattr(assemble_module, "write_split", stop)
        else:
            patch.setattr(assemble_module, "write_splits_file", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(config_of(tmp_path, tokenizer_dir, source))
    nothing_done = when == "while reading"
    assert left(tmp_path) == (["a.jsonl"] if nothing_done else ["a.jsonl", "out.unfinished"])
    result = prepare(config_of(tmp_path, tokenizer_dir, source))
    assert (result.reused, result.found_items) == (False, 0 if nothing_done else 1)
    assert left(tmp_path) == ["a.jsonl", "out"]
    whole = PrepareConfig(tokenizer=tokenizer_dir, sources=(source,), output=str(tmp_path / "whole"))
    prepare(whole)
    same_but_for_the_name(tmp_path / "out", tmp_path / "whole")


def _ids(corpus, split):
    return set(datasets.load_from_disk(str(corpus / split))["id"][:])


def test_a_share_is_held_out_by_the_hash_of_ids(tmp_path, tokenizer_dir):
    ids = [f"document {number}" for number in range(400)]
    first = {int.from_bytes(hashlib.sha256(i.encode()).digest()[:8], "little") / 2**64: i for i in ids}
    wanted = {i for share, i in first.items() if share < 0.1} | {"document 7"}
    assert 20 < len(wanted) < 60
    source = write(tmp_path / "a.jsonl", *((i, "one") for i in ids))
    options = {"held_out": ("document 7",), "held_out_share": 0.1}
    prepare(config_of(tmp_path, tokenizer_dir, source, **options))
    assert _ids(tmp_path / "out", "held_out") == wanted
    assert _ids(tmp_path / "out", "train") == set(ids) - wanted
    with pytest.raises(UserError, match=r"held_out_share is 0\.9; it must be between 0 and 0.5"):
        config_of(tmp_path, tokenizer_dir, source, held_out_share=0.9)


def test_a_place_that_cannot_be_written_is_one_message(tmp_path, tokenizer_dir):
    source = write(tmp_path / "a.jsonl", ("x", "one"))
    (tmp_path / "file").write_text("")
    config = PrepareConfig(tokenizer=tokenizer_dir, sources=(source,), output=str(tmp_path / "file" / "out"))
    with pytest.raises(UserError, match="cannot write the corpus"):
        prepare(config)


@pytest.mark.parametrize(
    ("documents", "held_out", "message"),
    [
        (
            [("x", "one"), ("y", "two"), ("x", "three")],
            (),
            r"a\.jsonl:3: the document id 'x' was used before, at .*:1;",
        ),
        ([("x", "one"), ("y", "two")], ("y", "nobody"), "held_out: no document has the id 'nobody'"),
        ([("x", "one"), ("y", "two")], ("x", "y"), "no document is left to train on: every document is held out"),
        ([], (), "no document is left to train on: the sources are empty"),
        ([("x", "one"), ("y", " ")], (), r"a\.jsonl:2: an empty document"),
    ],
)
def test_mistakes_in_the_documents(tmp_path, tokenizer_dir, documents, held_out, message):
    source = write(tmp_path / "a.jsonl", *documents)
    with pytest.raises(UserError, match=message):
        prepare(config_of(tmp_path, tokenizer_dir, source, held_out=held_out))
    assert left(tmp_path) == ["a.jsonl"]


def test_a_source_named_twice_is_refused(tmp_path, tokenizer_dir):
    source = write(tmp_path / "a.jsonl", ("x", "one"))
    with pytest.raises(UserError, match="the document id 'x' was used before"):
        prepare(config_of(tmp_path, tokenizer_dir, source, source))


def test_tokenizers_that_cannot_be_used(tmp_path, tokenizer_dir):
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(str(tmp_path))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_tokenizer(str(broken))
    endless = tmp_path / "endless"
    shutil.copytree(tokenizer_dir, endless)
    settings = json.loads((endless / "tokenizer_config.json").read_text())
    del settings["eos_token"]
    (endless / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="has no EOS token"):
        load_tokenizer(str(endless))


def test_tokenizer_fingerprint(tmp_path, tokenizer_dir, bos_tokenizer_dir):
    tokenizer = load_tokenizer(tokenizer_dir)
    own = tokenizer_fingerprint(tokenizer)
    tokenizer(["a", "b c"], padding=True, truncation=True, max_length=1)  # leaves traces in the backend
    assert tokenizer_fingerprint(tokenizer) == own
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(load_tokenizer(str(tmp_path))) == own  # an exported folder keeps it
    assert tokenizer_fingerprint(load_tokenizer(bos_tokenizer_dir)) != own
    tokenizer.add_tokens(["<new>"])
    more = tokenizer_fingerprint(tokenizer)
    tokenizer.eos_token = "<new>"
    assert len({own, more, tokenizer_fingerprint(tokenizer)}) == 3


def test_check_tokenizer(corpus_dir, tokenizer_dir, bos_tokenizer_dir):
    corpus = TokenCorpus(corpus_dir)
    corpus.check_tokenizer(tokenizer_fingerprint(load_tokenizer(tokenizer_dir)), tokenizer_dir)
    with pytest.raises(UserError) as caught:
        corpus.check_tokenizer(tokenizer_fingerprint(load_tokenizer(bos_tokenizer_dir)), "other/one")
    assert "made with the tokenizer" in str(caught.value)
    assert "'other/one'" in str(caught.value)


def test_ids_are_within_the_vocabulary(corpus_dir):
    corpus = TokenCorpus(corpus_dir)
    stream = corpus.read(0, corpus.tokens)
    assert stream.min() >= 0
    assert stream.max() < corpus.info["tokenizer"]["vocab_size"] == 4096
    assert np.flatnonzero(stream == 0).tolist() == (corpus.starts[1:] - 1).tolist()  # EOS ends documents, and only they


def test_named_sources_may_have_files_of_the_same_name(rows, tokenizer_dir, tmp_path):
    sources = []
    for name, text in (("a", rows[0]["text"][:300]), ("b", rows[0]["text"][300:700])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(text)
        sources.append(Source(path=str(tmp_path / name), name=name))
    prepare(PrepareConfig(tokenizer=str(tokenizer_dir), sources=tuple(sources), output=str(tmp_path / "corpus")))
    corpus = TokenCorpus(tmp_path / "corpus")
    assert [corpus.document_id(i) for i in range(2)] == ["a/README.md", "b/README.md"]
    unnamed = tuple(Source(path=source.path) for source in sources)
    with pytest.raises(UserError, match=r"README\.md' was used before.*where each source has a name"):
        prepare(PrepareConfig(tokenizer=str(tokenizer_dir), sources=unnamed, output=str(tmp_path / "other")))
