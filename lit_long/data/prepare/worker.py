"""A worker process of ``prepare``.

Started as a program of its own instead of by ``multiprocessing``, which would run the caller's main script again.
"""

import os
import pickle
import signal
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lit_long.data.prepare.encoder import Encoder
from lit_long.data.prepare.item_writer import Job, write_item
from lit_long.errors import UserError


@dataclass(frozen=True)
class Ready:
    """The worker waits for its first item."""


@dataclass(frozen=True)
class Failed:
    """An item could not be done: a ``UserError``, an ``OSError`` or a ``MemoryError``; None: a bug."""

    error: Exception | None
    trace: str


def start(connection: int, alive: int, job: str) -> None:
    """The whole life of a worker process.

    Args:
        connection: file descriptor of its end of the pipe to the parent.
        alive: file descriptor that can be read when the parent has ended.
        job: file of the pickled :class:`Job`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    _work(Connection(connection), pickle.loads(Path(job).read_bytes()))


def _work(connection: Connection, job: Job) -> None:
    """Do the items that come through ``connection`` until it closes."""
    encoder = Encoder(job.encoder)
    connection.send(Ready())
    while True:
        try:
            item: Any = connection.recv()
        except EOFError:
            return
        try:
            write_item(item, job, encoder, connection.send)
        except Exception as error:
            known = isinstance(error, UserError | OSError | MemoryError)
            connection.send(Failed(error if known else None, traceback.format_exc()))


def _end_with_parent(alive: int) -> None:
    os.read(alive, 1)  # returns when the other end closes: when the parent ends, even by kill -9
    os._exit(1)
