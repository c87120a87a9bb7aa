"""What ``clean:`` may say, and what it costs where datatrove's own blocks do not fit long documents."""

import importlib.util

import jsonargparse
import numpy as np
import pytest
import yaml
from cleaned_texts import real_books
from test_clean import BOOKS

from lit_long.data.cleaning import CleanConfig, NearDuplicates, clean
from lit_long.data.cleaning.config import check_packages
from lit_long.data.sources import Source
from lit_long.errors import UserError


def parsed(text):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--clean", type=CleanConfig | None)
    return parser.instantiate_classes(parser.parse_object({"clean": yaml.safe_load(text)})).clean


def test_yaml():
    assert parsed("{near_duplicates: {}}").near_duplicates == NearDuplicates(
        ngram_words=5, buckets=14, hashes_per_bucket=8
    )
    config = parsed("{exact_duplicates: true, languages: [en, de], quality: [gopher_quality, gopher_repetition]}")
    assert config == CleanConfig(
        exact_duplicates=True, languages=("en", "de"), quality=("gopher_quality", "gopher_repetition")
    )
    assert parsed("null") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "asks for nothing"),
        ({"quality": ("gopher",)}, "'gopher' is not known; give some of gopher_quality"),
        ({"languages": ()}, "an empty list"),
        ({"languages": ("en",), "language_threshold": 65}, "language_threshold is 65"),
    ],
)
def test_refuses_what_cannot_be_meant(settings, message):
    with pytest.raises(UserError, match=message):
        CleanConfig(**settings)
    with pytest.raises(UserError, match=r"near_duplicates.buckets is 0"):
        NearDuplicates(buckets=0)


def test_refuses_an_unknown_language():
    with pytest.raises(UserError, match=r"'english' is no code of the language model; it knows af, als, am, .*"):
        check_packages(CleanConfig(languages=("de", "english")))


def test_names_the_packages_that_are_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("lit_long.data.cleaning.config.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the packages datatrove, .*pip install 'lit-long\[clean\]'"):
        clean([Source(path="nowhere")], CleanConfig(exact_duplicates=True), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_signature_of_a_book_is_datatroves_own():
    """In pieces or at once, the hashes are the same."""
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    from lit_long.data.cleaning.stages import minhash_config
    from lit_long.data.cleaning.steps import LongSignature
    from lit_long.data.cleaning.words import UnicodeWords

    config, words = minhash_config(NearDuplicates()), UnicodeWords()
    ours, theirs = LongSignature("unused", config, words), MinhashDedupSignature("unused", config, words)
    shingles = ours.get_shingles(real_books(BOOKS, 1)[0]["text"])
    assert len(shingles) > 100_000
    assert ours.get_signature(shingles) == theirs.get_signature(shingles)
    short = ours.get_shingles("one two three four five six")
    assert ours.get_signature(short) == theirs.get_signature(short)
    assert np.shape(ours.get_signature(short)) == (14, 8)


def test_words_in_any_script():
    from lit_long.data.cleaning.words import UnicodeWords

    split = UnicodeWords().word_tokenize
    assert split("Don't stop -- read file.c, naïve-café; 3.14!") == [
        "Don't", "stop", "--", "read", "file.c", ",", "naïve", "-", "café", ";", "3.14", "!"
    ]  # fmt: skip
    assert split("中文字abc ไทย") == ["中", "文", "字", "abc", "ไ", "ท", "ย"]
    assert split(" \n ") == []
