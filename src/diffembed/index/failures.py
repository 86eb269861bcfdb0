"""SQLite's and the system's errors in our words."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffembed.errors import ConfigError, DataError, IndexFormatError

DAMAGED_HINT = (
    "delete the folder and index again; your files are not touched, "
    "but documents that came with `Index.add` live in the index alone: add them again"
)
_DAMAGED = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_SCHEMA,
    # Its own rules are broken: rows contradict each other, or hold what their columns don't.
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
}
_DAMAGED_WORDS = (
    "no such",
    "no column",
    "vtable constructor failed",
    "invalid fts5",
    "Could not decode",
    "cannot open value",
)
"""Of errors for which SQLite has no code of their own: tables, columns or rows are not as they were made."""
_UNREACHABLE = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOLFS,
}
_IN_USE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}


@contextmanager
def translating(folder: Path) -> Iterator[None]:
    """Tell what goes wrong inside the block as a fault of the index in a folder.

    Raises:
        DataError: The disk is full, something may not be read or written, another process is too long at it, the index
            was closed, or a text can't be stored.
        ConfigError: A pattern is too long.
        IndexFormatError: Files are missing or damaged.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise damaged(folder, f"{error.filename} is missing") from None
    except OSError as error:
        raise unreachable(folder, error.strerror or str(error)) from None
    except UnicodeEncodeError:
        raise DataError(
            "a text or a pattern holds half a surrogate pair, which is no Unicode text", hint="write it in UTF-8"
        ) from None
    except UnicodeDecodeError:
        raise damaged(folder, "its database holds text that is none") from None
    except OverflowError as error:
        if "string is longer" not in str(error):
            raise
        raise _too_big() from None
    except sqlite3.ProgrammingError as error:
        if "closed" not in str(error):
            raise
        raise DataError(f"the index in {folder} was closed", hint="open it again") from None
    except sqlite3.DatabaseError as error:
        raise _translated(folder, error) from None


def _translated(folder: Path, error: sqlite3.DatabaseError) -> Exception:
    # The low byte is the kind of the error, the others say more. Python's own errors have no code.
    code, why = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF, str(error)
    if code in _UNREACHABLE:
        return unreachable(folder, why)
    if code in _IN_USE:
        return in_use(folder, why)
    if code == sqlite3.SQLITE_TOOBIG:
        return _too_big()
    if "pattern too complex" in why:
        return ConfigError(f"a pattern is too long for SQLite: {why}", hint="give a shorter one")
    if code in _DAMAGED or any(words in why for words in _DAMAGED_WORDS):
        return damaged(folder, why)
    return DataError(
        f"SQLite could not do its work on the index in {folder}: {why}",
        hint=f"see whether the index is sound: diffembed index --verify --to {folder}",
    )


def _too_big() -> DataError:
    return DataError("a text is too big for SQLite, which takes 1 GB at most", hint="cut it into several documents")


def damaged(folder: Path, why: str) -> IndexFormatError:
    """Make the error of an index that can't be read any more."""
    return IndexFormatError(f"the index in {folder} is damaged: {why}", hint=DAMAGED_HINT)


def in_use(folder: Path, why: str) -> DataError:
    """Make the error of an index that others are at for too long."""
    return DataError(f"the index in {folder} is in use: {why}", hint="try again in a moment")


def gone(folder: Path) -> DataError:
    """Make the error of an open index that is not in its folder any more."""
    return DataError(
        f"the index in {folder} is gone: since it was opened, it was deleted or moved",
        hint="open it where it is now, or make it anew",
    )


def replaced(folder: Path) -> DataError:
    """Make the error of an open index in whose folder another one was made."""
    return DataError(f"the index in {folder} is another one than was opened: it was made anew", hint="open it again")


def unreachable(folder: Path, why: str) -> DataError:
    """Make the error of an index whose files can't be read or written, for now."""
    return DataError(
        f"cannot read or write the index in {folder}: {why}",
        hint="check its permissions and the free space; what was in the index is intact",
    )


def is_lack_of_room(error: OSError | sqlite3.Error) -> bool:
    """Whether something could not be written because the disk, or what one may use of it, is full."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE)
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
