"""Any file as documents: the kind follows from the name, and what can't be read says why in a few words."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

from diffembed.library.reading import html, markdown, pdf, plain, python, restructured, word
from diffembed.library.reading.document import (
    NO_TEXT,
    Document,
    OutOfReach,
    Unreadable,
    check_length,
    whole_characters,
)

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
VERBATIM = frozenset((plain.read, markdown.read, restructured.read, python.read))
"""Readers whose text is the file's own, line by line."""
MAX_BYTES = 64 * 1024 * 1024
"""Of a file that is one document; JSON rows stream, and may be as many as there are."""
LONGEST_TITLE = 200
PIECE_BYTES = 1024 * 1024

GONE = {
    errno.ENOENT: "not there any more",
    errno.ENOTDIR: "not there any more",
    errno.ELOOP: "a link that leads back to itself",
}
"""What the system says where there is no file (any more); its other complaints may pass."""
NO_FILE = {errno.ENXIO: "not a regular file", errno.ENODEV: "not a regular file"}
REFUSED = {errno.EACCES: "no permission", errno.EPERM: "no permission"}


def kind_of(path: Path | str) -> str | None:
    """The suffix among `KINDS` that a file has, in any letters; None when it has another."""
    name = os.path.basename(path)
    if name.lower().endswith(".jsonl.gz"):
        return ".jsonl.gz" if name.endswith(".gz") else None  # rows are unpacked where the suffix is in small letters
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in KINDS else None


def is_rows(path: Path) -> bool:
    """Whether a file holds a document in each row, so that `Rows` are for it and `read_document` isn't."""
    kind = kind_of(path)
    return kind is not None and KINDS[kind] is None


def is_verbatim(path: Path | str) -> bool:
    """Whether a document's lines are those of its file, so that a line number says where to look."""
    return KINDS.get(kind_of(path) or ".txt") in VERBATIM


def read_bytes(path: Path) -> bytes:
    """Read a file that is one document, whatever has become of its path since it was found; never waits for a pipe.

    Raises:
        OutOfReach: It may not be read, or its disk doesn't answer.
        Unreadable: It is gone, no regular file, or over `MAX_BYTES`.
    """
    pieces = []
    try:
        with open_regular(path) as file:
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
        raise unreadable(error) from None
    return b"".join(pieces)


def digest(path: Path) -> tuple[str, int]:
    """SHA-256 of a file's content, in hexadecimal, and its size in bytes.

    Raises:
        OutOfReach: As `read_bytes`.
        Unreadable: As `read_bytes`; a file of rows may have any size.
    """
    if not is_rows(path):
        data = read_bytes(path)
        return hashlib.sha256(data).hexdigest(), len(data)
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
    except OSError as error:
        raise unreadable(error) from None


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
        Unreadable: The data are broken, too large, of another kind or without text.
        MissingParser: The kind's parser isn't installed.
    """
    reader = KINDS.get(kind_of(path) or ".txt")
    assert reader is not None, f"{path} holds a document in each row"
    try:
        if len(data) > MAX_BYTES:
            raise _too_large()
        document = reader(path, data)
        if not document.text.strip():
            raise Unreadable(NO_TEXT, hint="a scanned file needs its text recognised first")
        check_length(len(document.text))
    except Unreadable as error:
        error.digest = hashlib.sha256(data).hexdigest()
        raise
    title = " ".join(whole_characters(document.title[: 4 * LONGEST_TITLE]).split())[:LONGEST_TITLE]
    return replace(document, title=title or whole_characters(_title_of(path)))


def _title_of(path: Path) -> str:
    return " ".join(path.stem.replace("_", " ").replace("-", " ").split()) or path.stem


def unreadable(error: OSError) -> Unreadable:
    """Make the error of a file that the system doesn't give."""
    number, hint = error.errno or 0, "check the path and who may read it"
    if reason := GONE.get(number) or NO_FILE.get(number):
        return Unreadable(reason, hint=hint)
    return OutOfReach(REFUSED.get(number) or str(error.strerror or error).lower(), hint=hint)


def open_regular(path: Path) -> BufferedReader:
    """Open a file, and nothing that only looks like one; never waits for a pipe.

    Raises:
        Unreadable: It is no regular file.
        OSError: The system doesn't give it.
    """
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
