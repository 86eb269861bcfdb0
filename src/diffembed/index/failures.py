"""SQLite's and the system's errors in our words."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffembed.errors import DataError, IndexFormatError


@contextmanager
def told(folder: Path) -> Iterator[None]:
    """Tell what goes wrong inside the block as a fault of the index in a folder.

    Raises:
        DataError: The disk is full, something may not be read or written, another process is too long at it, the index
            was closed, or a text can't be stored.
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
    except UnicodeDecodeError:  # of SQLite's message, which quotes what is damaged
        raise damaged(folder, "its database holds text that is none") from None
    except sqlite3.ProgrammingError as error:
        if "closed" not in str(error):
            raise
        raise DataError(f"the index in {folder} was closed", hint="open it again") from None
    except sqlite3.OperationalError as error:
        if any(why in str(error) for why in ("disk I/O", "full", "readonly", "unable to open")):
            raise unreachable(folder, str(error)) from None
        if "locked" in str(error):
            raise DataError(f"the index in {folder} is in use: {error}", hint="try again in a moment") from None
        raise damaged(folder, str(error)) from None
    except sqlite3.DatabaseError as error:
        raise damaged(folder, str(error)) from None


def damaged(folder: Path, why: str) -> IndexFormatError:
    """Make the error of an index that can't be read any more."""
    return IndexFormatError(
        f"the index in {folder} is damaged: {why}", hint="delete the folder and index again; your files are not touched"
    )


def unreachable(folder: Path, why: str) -> DataError:
    """Make the error of an index whose files can't be read or written, for now."""
    return DataError(
        f"cannot read or write the index in {folder}: {why}",
        hint="check its permissions and the free space; what was in the index is intact",
    )
