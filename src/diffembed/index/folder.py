"""What lies in the folder of an index, told from what does not: nothing of anybody else's is written to or emptied."""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffembed.errors import DataError, IndexFormatError

DATABASE = "index.sqlite"
VECTORS = "vectors"
LOCK = "lock"
OWN_ENTRIES = frozenset({DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", VECTORS, LOCK})
_HELD_BY = re.compile(rb"[0-9]{0,20}")
"""What a lock holds: the number of the process that was the last to write, or nothing yet."""


def is_own(path: Path) -> bool:
    """Whether something in a folder can be an index's: by its name, and of a lock by what it holds."""
    if path.name not in OWN_ENTRIES or path.is_symlink():
        return False
    if path.name != LOCK:
        return True
    return path.is_file() and path.stat().st_size < 100 and _HELD_BY.fullmatch(path.read_bytes()) is not None


def foreign(path: Path) -> DataError:
    """Make the error of a folder in which something lies that is not an index's."""
    return DataError(
        f"{path.parent} holds {path.name!r}, which belongs to no index", hint="name a new or an empty folder"
    )


def expect_no_links(folder: Path) -> None:
    """See that nothing in the folder of an index lies elsewhere, where it may be another index's or anybody's.

    Raises:
        IndexFormatError: Something does.
    """
    for name in OWN_ENTRIES:
        if (folder / name).is_symlink():
            raise _elsewhere(folder / name)


def open_own(path: Path, flags: int) -> int:
    """Open a file of an index and return its descriptor.

    Raises:
        IndexFormatError: It is a link, a pipe, or whatever else is no file.
    """
    if path.is_symlink():
        raise _elsewhere(path)
    # Between that and this it may have become one. To open a pipe would else wait for somebody at its other end.
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _elsewhere(path)
    return file


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the right to write the index in a folder.

    Raises:
        DataError: Somebody else holds it, or what is called like its lock is none.
        IndexFormatError: The lock is no file.
    """
    import fcntl

    with open(open_own(folder / LOCK, os.O_RDWR | os.O_CREAT), "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = file.read(20).decode(errors="replace") or "?"
            raise DataError(
                f"another process (number {who}) is writing the index in {folder}",
                hint="wait until it is done, then run this again",
            ) from None
        if not is_own(folder / LOCK):
            raise foreign(folder / LOCK)
        file.truncate(0)
        file.write(str(os.getpid()).encode())
        yield


def _elsewhere(path: Path) -> IndexFormatError:
    return IndexFormatError(
        f"{path} is a link, or not what an index puts there",
        hint="put what it leads to in its place; a link to the whole folder of an index will do",
    )
