"""Shared by the tests of sources: everything that a list of sources gives, item by item."""

import gzip

import pytest
import zstandard

from lit_long.data.sources import Source, plan_items, read_item

PACK = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.ZstdCompressor().compress}


@pytest.fixture(scope="session")
def pack():
    """Suffix of JSON lines -> bytes to the bytes of such a file."""
    return PACK


@pytest.fixture(scope="session")
def records():
    """All records of sources (or of one path with options), read item by item."""

    def read(sources, *, item_bytes=1 << 20, max_document_bytes=1 << 24, **options):
        if not isinstance(sources, list):
            sources = [Source(path=str(sources), **options)]
        items = plan_items(sources, item_bytes=item_bytes, max_document_bytes=max_document_bytes)
        return [r for item in items for r in read_item(item, sources, max_document_bytes=max_document_bytes)]

    return read
