"""Raw documents from files, code repositories and Hub datasets, in a stable order and in units of work.

``plan_items`` cuts sources into items (main process, no parsing); ``read_item`` turns one into documents and bad rows
(worker process); ``describe_inputs`` says what decides whether a corpus made of them is up to date.
"""

from lit_long.data.sources.identity import describe_inputs
from lit_long.data.sources.plan import MAX_DOCUMENT_BYTES, plan_items, read_documents, read_item
from lit_long.data.sources.records import BAD_KINDS, BadRow, Document, Item, Record, Skipped
from lit_long.data.sources.source import CODE_SUFFIXES, Source

__all__ = [
    "BAD_KINDS",
    "CODE_SUFFIXES",
    "MAX_DOCUMENT_BYTES",
    "BadRow",
    "Document",
    "Item",
    "Record",
    "Skipped",
    "Source",
    "describe_inputs",
    "plan_items",
    "read_documents",
    "read_item",
]
