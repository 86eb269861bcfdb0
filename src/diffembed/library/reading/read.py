"""Any file as documents: the kind follows from the name, and what can't be read says why in a few words."""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from diffembed.data import sources
from diffembed.errors import DataError
from diffembed.library.reading import html, markdown, pdf, plain, python, restructured, word
from diffembed.library.reading.document import Document, Unreadable, whole_characters

Reader = Callable[[Path, bytes], Document]

KINDS: Mapping[str, Reader | None] = {
    ".txt": plain.read,
    ".md": markdown.read,
    ".rst": restructured.read,
    ".html": html.read,
    ".htm": html.read,
    ".py": python.read,
    ".pdf": pdf.read,
    ".docx": word.read,
    ".jsonl": None,
    ".jsonl.gz": None,
}
"""Suffix, in small letters -> what reads it; None where each row of a file is a document."""
MAX_BYTES = 64 * 1024 * 1024
"""Of a file that is one document; JSON rows stream, and may be as many as there are."""
LONGEST_TITLE = 200
PIECE_BYTES = 1024 * 1024


def kind_of(path: Path | str) -> str | None:
    """The suffix among `KINDS` that a file has, in any letters; None when it has another."""
    name = os.path.basename(path)
    if name.lower().endswith(".jsonl.gz"):
        return ".jsonl.gz" if name.endswith(".gz") else None  # rows are unpacked where the suffix is in small letters
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in KINDS else None


def is_rows(path: Path) -> bool:
    """Whether a file holds a document in each row, so that `read_rows` is for it and `read_document` isn't."""
    kind = kind_of(path)
    return kind is not None and KINDS[kind] is None


def read_bytes(path: Path) -> bytes:
    """Read a file that is one document, whatever has become of its path since it was found; never waits for a pipe.

    Raises:
        Unreadable: It is gone, no regular file, over `MAX_BYTES`, or may not be read.
    """
    pieces = []
    try:
        with _open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise _too_large()
            # It may grow while it is read, and files of /proc say that they are empty.
            room = MAX_BYTES
            while piece := file.read(PIECE_BYTES):
                pieces.append(piece)
                room -= len(piece)
                if room < 0:
                    raise _too_large()
    except OSError as error:
        raise _unreadable(error) from None
    return b"".join(pieces)


def read_document(path: Path, data: bytes) -> Document:
    r"""Read a file that is one document. What is in it can't make this read another file or reach the network.

    Args:
        path: Its suffix says of what kind the data are; any other suffix than those of `KINDS` means plain text. The
            path itself isn't opened.
        data: The file's bytes.

    Returns:
        A document with text that isn't blank, newlines as \n, and a title of at most 200 characters: its own, or else
        the file's name in words.

    Raises:
        Unreadable: The data are broken, too large, of another kind or without text, or the kind's parser is missing.
    """
    reader = KINDS.get(kind_of(path) or ".txt")
    assert reader is not None, f"{path} holds a document in each row"
    if len(data) > MAX_BYTES:
        raise _too_large()
    document = reader(path, data)
    if not document.text.strip():
        raise Unreadable("no text in it", hint="a scanned file needs its text recognised first")
    title = " ".join(whole_characters(document.title[: 4 * LONGEST_TITLE]).split())[:LONGEST_TITLE]
    return replace(document, title=title or whole_characters(_title_of(path)))


def read_rows(path: Path) -> Iterator[Document]:
    """Read a JSON-lines file in BEIR's form, `{"_id", "title", "text"}`, row by row; title and text become one text.

    Raises:
        Unreadable: The file may not be read, or is no regular file.
        DataError: A row is broken, has no id or no text, or an id comes twice; names file and line.
    """
    try:
        _open_regular(path).close()
    except OSError as error:
        raise _unreadable(error) from None
    ids: set[str] = set()
    for row in sources.read_rows(path):
        row_id = _id(row.values.get("_id"), row.place)
        if row_id in ids:
            raise DataError(f"{row.place}: the id {row_id!r} occurs twice", hint="keep one row per id")
        ids.add(row_id)
        title = row.text("title") if row.values.get("title") is not None else ""
        yield Document(id=row_id, title=title, text=f"{title} {row.text('text')}".strip())


def _id(value: Any, place: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(
            f"{place}: `_id` must be a string or a whole number, got {value!r}", hint="give every row an id"
        )
    return str(value)


def _title_of(path: Path) -> str:
    return " ".join(path.stem.replace("_", " ").replace("-", " ").split()) or path.stem


def _open_regular(path: Path) -> BinaryIO:
    # Opened first and looked at then: between a look and an opening a path can become a pipe, where opening waits.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Unreadable("not a regular file", hint="copy what it gives into a file")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _too_large() -> Unreadable:
    return Unreadable(f"over {MAX_BYTES // 1024 // 1024} MB", hint="cut it into several files")


def _unreadable(error: OSError) -> Unreadable:
    reasons = {
        errno.EACCES: "no permission",
        errno.EPERM: "no permission",
        errno.ENOENT: "not there any more",
        errno.ENOTDIR: "not there any more",
        errno.ELOOP: "a link that leads back to itself",
        errno.ENXIO: "not a regular file",
        errno.ENODEV: "not a regular file",
    }
    reason = reasons.get(error.errno or 0) or str(error.strerror or error).lower()
    return Unreadable(reason, hint="check the path and who may read it")
