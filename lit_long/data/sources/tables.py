"""Rows of Arrow tables, as Parquet files and Hub datasets give them, to documents."""

from collections.abc import Iterator
from typing import Any

from lit_long.data.sources.records import Record
from lit_long.data.sources.rows import BadRowError, decode, document, missing_text, too_long
from lit_long.data.sources.source import Source
from lit_long.errors import UserError


def columns(source: Source, schema: Any, place: str) -> list[str]:
    """The columns that are needed, of an Arrow schema.

    Raises:
        UserError: there is no column of texts under the source's ``text_field``.
    """
    import pyarrow as pa

    if source.text_field not in schema.names:
        raise UserError(
            f"{place}: no column {source.text_field!r}; found {sorted(schema.names)}. Name the column with text_field"
        )
    kind = schema.field(source.text_field).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    if not any(is_kind(kind) for is_kind in (*texts, pa.types.is_large_binary, pa.types.is_null)):
        raise UserError(f"{place}: column {source.text_field!r} holds {kind}, not text; name another with text_field")
    wanted = (source.text_field, source.id_field, "license")
    return [name for name in schema.names if name in wanted]


def as_bytes(texts: Any) -> Any:
    """A column of texts as large_binary, since neither Arrow nor Parquet checks that strings are UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    return texts.cast(pa.large_binary())


def rows(table: Any, first: int, source: Source, place: str, name: str, max_document_bytes: int) -> Iterator[Record]:
    """Documents and bad rows of a record batch.

    Args:
        table: the batch, with (at least) the columns of :func:`columns`.
        first: number of its first row in the file or dataset, from 0.
        source: names of the fields.
        place: file or dataset id; a row's place is "place#row".
        name: the same for the ids of rows without one.
        max_document_bytes: longest text in bytes of UTF-8.
    """
    texts = as_bytes(table.column(source.text_field))
    others = {key: table.column(key) for key in (source.id_field, "license") if key in table.schema.names}
    for index in range(table.num_rows):
        row = f"{place}#{first + index}"
        try:
            raw = texts[index].as_py()
            if raw is None:
                raise missing_text(source, sorted(table.schema.names))
            if len(raw) > max_document_bytes:
                raise too_long(len(raw), max_document_bytes)
            try:
                values = {key: column[index].as_py() for key, column in others.items()}
            except UnicodeDecodeError:
                raise BadRowError("invalid_utf8", f"not UTF-8 in {' or '.join(map(str, others))}; repair it") from None
            id_, license_ = values.get(source.id_field), values.get("license")
            yield document(source, decode(raw), id_, license_, row, f"{name}#{first + index}")
        except BadRowError as error:
            yield error.at(row)
