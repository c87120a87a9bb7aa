"""A worker process of ``prepare``: ``python -m lit_long.data.prepare.worker CONNECTION ALIVE JOB``.

Started as a program of its own instead of by ``multiprocessing``, which would run the caller's main script again.
"""

import os
import pickle
import signal
import sys
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


def main(connection: Connection, job: Job) -> None:
    """Do the items that come through ``connection`` until it closes; answers as :func:`write_item` tells it."""
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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, args=(int(sys.argv[2]),), daemon=True).start()
    main(Connection(int(sys.argv[1])), pickle.loads(Path(sys.argv[3]).read_bytes()))
