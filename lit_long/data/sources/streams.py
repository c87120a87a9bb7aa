"""Bytes of plain and compressed files, with an end that is told from a file cut short."""

from collections.abc import Iterator
from pathlib import Path

from lit_long.errors import UserError

CHUNK_BYTES = 1 << 20
_CODECS = {".gz": "gzip", ".zst": "zstd"}


def unpacked(file: Path) -> Iterator[bytes]:
    """Chunks of the decompressed bytes of a .gz or .zst file of one part or many.

    pyarrow's reader, since the ones of ``gzip`` and ``zstandard`` are slower or take a file that was cut short for a
    whole one. It gives at most a chunk at a time, however much a file is compressed.

    Raises:
        OSError: the file cannot be opened, is damaged or was cut short.
    """
    import pyarrow as pa

    if not file.stat().st_size:
        raise OSError("no byte in it: not even an empty archive is that short")
    with pa.input_stream(str(file), compression=_CODECS[file.suffix]) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def cannot_read(file: Path | str, error: Exception) -> UserError:
    """The one message for a file that cannot be opened or read."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UserError(f"{file}: cannot be read ({reason})")
