"""Items of work over processes. An item is cut when a process is free for it, so few are in memory at any time."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path

from lit_long.data.prepare.encoder import Encoder
from lit_long.data.prepare.item_writer import Finished, Job, Message, write_item
from lit_long.data.prepare.worker import Failed, Ready
from lit_long.data.sources import Item
from lit_long.errors import UserError

_START = "from lit_long.data.prepare.worker import start; start"
_ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false"}


def run_items(items: Iterator[Item], job: Job, processes: int, tell: Callable[[Message], None]) -> None:
    """Do ``items`` with ``processes`` processes of one thread each (1: in this one).

    Raises:
        UserError: a source that cannot be read, or a process that was killed.
        OSError: an item cannot be written.
    """
    if processes == 1:
        with _one_thread():
            encoder = Encoder(job.encoder)
            for item in items:
                write_item(item, job, encoder, tell)
        return
    file = Path(job.folder) / f"job.{os.getpid()}.tmp"
    file.write_bytes(pickle.dumps(job))
    ended, alive = os.pipe()
    workers: dict[Connection, _Worker] = {}
    try:
        for _ in range(processes):
            worker = _Worker(file, ended)
            workers[worker.connection] = worker
        _deal(items, workers, tell)
    finally:
        for worker in workers.values():
            worker.kill()
        os.close(ended)
        os.close(alive)
        file.unlink(missing_ok=True)


def _deal(items: Iterator[Item], workers: "dict[Connection, _Worker]", tell: Callable[[Message], None]) -> None:
    ahead = next(items, None)  # cut before a process is free for it, so that none waits
    while workers:
        for connection in wait(list(workers)):
            assert isinstance(connection, Connection)
            worker = workers[connection]
            try:
                message = connection.recv()
            except (EOFError, ConnectionResetError):
                raise worker.died() from None
            if isinstance(message, Failed):
                raise _error(message)
            if not isinstance(message, Ready):
                tell(message)
            if isinstance(message, Ready | Finished):
                if ahead is None:
                    worker.kill()  # nothing left to do, so nothing is lost
                    del workers[connection]
                else:
                    worker.give(ahead)
                    ahead = next(items, None)


class _Worker:
    def __init__(self, job: Path, ended: int) -> None:
        self.connection, theirs = Pipe()
        self.item: Item | None = None
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"{_START}({theirs.fileno()}, {ended}, {str(job)!r})"],
            env=os.environ | _ONE_THREAD | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno(), ended],
        )
        theirs.close()

    def give(self, item: Item) -> None:
        self.item = item
        try:
            self.connection.send(item)
        except (BrokenPipeError, ConnectionResetError):
            raise self.died() from None

    def died(self) -> Exception:
        code = self._process.wait()
        what = f"item {self.item.number}" if self.item is not None else "its first item"
        if code == -9:
            return UserError(
                f"a worker process was killed (signal 9) at {what}, most likely because memory ran out. What is done "
                f"is kept: give the command again with fewer processes, or with a smaller max_document_bytes"
            )
        return RuntimeError(f"a worker process ended with code {code} at {what}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()


def _error(failed: Failed) -> Exception:
    if failed.error is None:
        return RuntimeError(f"in a worker process:\n{failed.trace}")
    if isinstance(failed.error, MemoryError):
        return UserError(
            "a worker process ran out of memory. What is done is kept: give the command again with fewer processes, "
            "or with a smaller max_document_bytes"
        )
    return failed.error


@contextmanager
def _one_thread() -> Iterator[None]:
    before = {key: os.environ.get(key) for key in _ONE_THREAD}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
