"""A folder in parts that are small enough for a machine that takes only so much at a time; standard library only.

    python benchmarks/paper/parts.py pack FOLDER PARTS [--mib 44]      # PARTS/00, PARTS/01, ...
    python benchmarks/paper/parts.py unpack PARTS FOLDER

One gzip stream of one tar archive, cut into files; links are followed. The stream's checksum finds a part that is
missing or damaged.
"""

import argparse
import gzip
import sys
import tarfile
import zlib
from pathlib import Path
from typing import IO

MIB = 1 << 20


class _Cut:
    """A file to write to that is many, none longer than ``size`` bytes."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size, self.count = folder, size, 0
        self._file: IO[bytes] | None = None
        self._room = 0

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while len(rest):
            if self._room == 0:
                self.close()
                self._file, self._room = (self.folder / f"{self.count:02}").open("wb"), self.size
                self.count += 1
            assert self._file is not None
            taken = self._file.write(rest[: self._room])
            self._room -= taken
            rest = rest[taken:]
        return len(data)

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Joined:
    """Many files to read from as if they were one."""

    def __init__(self, files: list[Path]) -> None:
        self._files = iter(files)
        self._file: IO[bytes] | None = None

    def read(self, size: int = -1) -> bytes:
        found = b""
        while size < 0 or len(found) < size:
            if self._file is None:
                following = next(self._files, None)
                if following is None:
                    break
                self._file = following.open("rb")
            part = self._file.read(size - len(found) if size >= 0 else -1)
            if not part:
                self._file.close()
                self._file = None
            found += part
        return found


def pack(folder: Path, parts: Path, mib: float) -> int:
    """Write a folder's content into parts; returns their number."""
    if not folder.is_dir():
        sys.exit(f"{folder} is no folder")
    parts.mkdir(parents=True, exist_ok=True)
    if any(parts.iterdir()):
        sys.exit(f"{parts} is not empty: parts of two archives would be mixed")
    cut = _Cut(parts, int(mib * MIB))
    with (
        gzip.GzipFile(fileobj=cut, mode="wb", compresslevel=6, filename="", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w|", dereference=True) as archive,
    ):
        for path in sorted(folder.iterdir()):
            archive.add(path, arcname=path.name)
    cut.close()
    return cut.count


def unpack(parts: Path, folder: Path) -> None:
    """Put a folder together again from all files in ``parts``."""
    files = sorted(parts.iterdir()) if parts.is_dir() else []
    if not files:
        sys.exit(f"no parts in {parts}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            gzip.GzipFile(fileobj=_Joined(files), mode="rb") as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            archive.extractall(folder, filter="data")
            while stream.read(MIB):  # to the end, where the checksum is
                pass
    except (EOFError, OSError, zlib.error, tarfile.TarError) as error:
        names = ", ".join(file.name for file in files)
        sys.exit(f"a part is missing or damaged ({error}); there are {names}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path, help="the folder, or the folder of its parts")
    parser.add_argument("target", type=Path, help="the folder of the parts, or where the folder shall be")
    parser.add_argument("--mib", type=float, default=44, help="the longest part, in MiB")
    args = parser.parse_args(argv)
    if args.action == "pack":
        print(f"{pack(args.source, args.target, args.mib)} parts in {args.target}")
    else:
        unpack(args.source, args.target)


if __name__ == "__main__":
    main()
