"""From the bytes of a row to a document; every way in which a row can be bad, in one place for all kinds of files."""

from typing import Any

from lit_long.data.sources.records import BadRow, Document
from lit_long.data.sources.source import Source


class BadRowError(Exception):
    """A row that is no document; carries what :class:`BadRow` says. Caught by the readers, never seen by users."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind

    def at(self, place: str) -> BadRow:
        """The record of it."""
        return BadRow(place, self.kind, str(self))


def too_long(size: int, max_document_bytes: int) -> BadRowError:
    """The error for a row of ``size`` bytes."""
    return BadRowError(
        "too_long", f"{size:,} bytes, more than max_document_bytes ({max_document_bytes:,}); cut it or raise the limit"
    )


def decode(raw: bytes) -> str:
    """UTF-8 to text; a byte order mark, as editors on Windows write it, is no text.

    Raises:
        BadRowError: invalid_utf8.
    """
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")  # not utf-8-sig, which Python spells out slowly
    except UnicodeDecodeError as error:
        raise BadRowError(
            "invalid_utf8", f"not UTF-8 (byte {error.start}: {raw[error.start]:#04x}); convert it first"
        ) from None


def checked(text: str, what: str = "text") -> str:
    """``text`` itself.

    Raises:
        BadRowError: nul or invalid_unicode.
    """
    if (at := text.find("\0")) >= 0:
        raise BadRowError("nul", f"a NUL in the {what} (character {at}); remove it, or is this a binary file?")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRowError(
                "invalid_unicode",
                f"not Unicode {what} (character {error.start}: {text[error.start]!a}); repair or remove it",
            ) from None
    return text


def checked_text(text: str) -> str:
    """``text`` itself, if a document can be made of it.

    Raises:
        BadRowError: empty, nul or invalid_unicode.
    """
    if not text or text.isspace():
        raise BadRowError("empty", "an empty document; remove it")
    return checked(text)


def document(source: Source, text: str, id_: Any, license_: Any, place: str, default_id: str) -> Document:
    """A document of checked values; ids that are no strings are spelled out, an empty one is none.

    An id made of the document's place begins with the source's ``name``, if it was given one: two sources may each have
    a README.md.

    Raises:
        BadRowError: the text, the id or the licence cannot be used.
    """
    text = checked_text(text)
    if id_ is None or id_ == "":
        id_ = default_id if source.name is None else f"{source.name}/{default_id}"
    else:
        id_ = checked(str(id_), "id")
    license_ = checked(license_, "license") if isinstance(license_, str) and license_ else source.license
    return Document(id_, text, place, license_)


def missing_text(source: Source, found: list[str]) -> BadRowError:
    """The error for a row without a text."""
    return BadRowError(
        "missing_text", f"no text in field {source.text_field!r}; found {found}. Name the field with text_field"
    )
