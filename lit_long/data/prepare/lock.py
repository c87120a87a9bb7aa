"""Who works in a folder: file locks of the operating system, which end with the process, however it ends."""

import fcntl
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from lit_long.errors import UserError


class FolderLock:
    """One process alone in a folder, or (``rank`` given) several, each alone in its rank.

    Args:
        folder: an existing folder.
        rank: which of ``world_size`` machines this is.
        world_size: how many machines share the folder.

    Raises:
        UserError: somebody else is at work there; says who. Or the file system has no locks.
    """

    def __init__(self, folder: Path, *, rank: int | None = None, world_size: int = 1) -> None:
        self._folder = folder
        self._files = [(folder / "lock", fcntl.LOCK_EX if rank is None else fcntl.LOCK_SH)]
        if rank is not None:
            self._files.append((folder / f"rank-{rank}-of-{world_size}.lock", fcntl.LOCK_EX))
        self._held: list[int] = []

    def __enter__(self) -> "FolderLock":
        try:
            for file, mode in self._files:
                self._held.append(self._take(file, mode))
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Let go."""
        while self._held:
            os.close(self._held.pop())

    def _take(self, file: Path, mode: int) -> int:
        while True:
            self._folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                if _is_still(file, descriptor):  # else the folder was finished and removed in between
                    if mode == fcntl.LOCK_EX:
                        os.ftruncate(descriptor, 0)
                        os.pwrite(descriptor, _self().encode(), 0)
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                raise UserError(
                    f"{self._folder}: another run is at work here ({_owners(self._folder, file)}); wait until it ends, "
                    f"or stop it and give the command again: it goes on from what is done"
                ) from None
            except OSError as error:
                os.close(descriptor)
                raise UserError(
                    f"{file}: cannot be locked ({error.strerror or error}); choose an output on a file system with "
                    f"locks, or, if this is another user's work, another output"
                ) from error
            os.close(descriptor)


def _is_still(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _self() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _owners(folder: Path, file: Path) -> str:
    """What the holders wrote down: the ranks that are locked now, else whoever has the file."""
    ranks = [own for own in sorted(folder.glob("rank-*.lock")) if file.name in ("lock", own.name) and _locked(own)]
    return "; ".join(f"{own.stem}: {own.read_text()}" for own in ranks) or file.read_text() or "just starting"


def _locked(file: Path) -> bool:
    descriptor = os.open(file, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
