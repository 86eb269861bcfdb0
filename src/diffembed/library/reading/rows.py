"""Files that hold a document in each row: JSON lines in BEIR's form, `{"_id", "title", "text"}`."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from diffembed.data import sources
from diffembed.errors import DataError
from diffembed.library.reading.document import Document, Unreadable, check_length, shortened
from diffembed.library.reading.read import PIECE_BYTES, open_regular, unreadable


class Rows:
    """The documents of a file, row by row; title and text become one text. May be read more than once.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.digest: str | None = None
        """SHA-256 of the content from which the rows came that were read last; None until they have all been."""

    def __iter__(self) -> Iterator[Document]:
        """Read the file.

        Raises:
            OutOfReach: The file may not be read, or its disk doesn't answer.
            Unreadable: It is gone or no regular file; or it has no row, or one that is broken or too long, has no id or
                no text, or whose id came before. Names the line.
        """
        self.digest = None
        try:
            with open_regular(self._path) as file:
                hashing = _Hashing(file)
                buffered = io.BufferedReader(hashing, PIECE_BYTES)
                try:
                    yield from _documents(self._path, buffered)
                except DataError as error:
                    if isinstance(error.__cause__, OSError):
                        raise error.__cause__ from None
                    refused = Unreadable(_reason(error, self._path), hint=error.hint)
                    refused.digest = hashing.to_end()
                    raise refused from None
                self.digest = hashing.to_end()
        except OSError as error:
            raise unreadable(error) from None


class _Hashing(io.RawIOBase):
    """A file, and the digest of what was read of it: it may change meanwhile."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)
        self._hash.update(memoryview(buffer)[:count])
        return count

    def to_end(self) -> str:
        """Read what is left, and give the digest of all."""
        while self.read(PIECE_BYTES):
            pass
        return self._hash.hexdigest()


def _documents(path: Path, file: BinaryIO) -> Iterator[Document]:
    ids: set[str] = set()
    for place, document in map(_document, sources.read_rows(path, file)):
        if document.id in ids:
            raise DataError(f"{place}: the id {shortened(repr(document.id))} occurs twice", hint="keep one row per id")
        ids.add(document.id)
        yield document
    if not ids:
        raise DataError("no row in it", hint="write one JSON object a line")


def _document(row: sources.Row) -> tuple[str, Document]:
    """Of a row its place and what it holds."""
    row_id = _id(row.values.get("_id"), row.place)
    title = row.text("title") if row.values.get("title") is not None else ""
    text = f"{title} {row.text('text')}".strip()
    for part in (row_id, title, text):
        try:
            check_length(len(part))
        except Unreadable as error:
            raise DataError(f"{row.place}: {error.reason}", hint=error.hint) from None
    return row.place, Document(id=row_id, title=title, text=text)


def _id(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{place}: `_id` must be a string or a whole number, got {shortened(repr(value))}",
            hint="give every row an id",
        )
    return str(value)


def _reason(error: DataError, path: Path) -> str:
    """What is wrong, without the path that stands beside it in a list."""
    reason = error.message.removeprefix(f"{path} ")
    return "line " + reason.removeprefix(f"{path}:") if reason.startswith(f"{path}:") else reason
