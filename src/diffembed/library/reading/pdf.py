"""PDF: the text of its pages."""

import io
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from diffembed.library.reading.document import (
    Document,
    MissingParser,
    Unreadable,
    check_length,
    refusing,
    whole_characters,
)

if TYPE_CHECKING:
    from pypdf import PdfReader

BETWEEN_PAGES = "\n\n"
LEAST_S, S_PER_MB = 60.0, 60.0
"""Of this thread's time, for a file and for each of its megabytes: several times what texts and drawings take."""


def read(path: Path, data: bytes) -> Document:
    """Read the text of a PDF file, pages apart by a blank line; each page with text begins a section.

    A file that opens without a password is read, also where printing or copying asks for one.

    Raises:
        Unreadable: It is broken, encrypted or endless, or pypdf or a cipher is not installed.
    """
    try:
        import pypdf
        from pypdf.errors import DependencyError
    except ImportError:
        raise MissingParser from None
    logger = logging.getLogger("pypdf")
    if logger.level == logging.NOTSET:  # it remarks on each oddity; a person who set a level wants to see them
        logger.setLevel(logging.CRITICAL)
    reader = None
    # A stream may ask for an image decoder, which pypdf would start as a program of its own.
    with refusing("PDF"), pypdf.apply_configuration(jbig2dec_binary=None):
        patience = _Patience(len(data))
        try:
            reader = pypdf.PdfReader(io.BytesIO(data))
            if reader.is_encrypted and not reader.decrypt(""):
                raise Unreadable("encrypted PDF", hint="save it without a password")
            title = reader.metadata.title if reader.metadata else None
            text, starts = _read_pages(reader, patience)
        except DependencyError:
            if reader is None or reader.is_encrypted:  # it is a cipher that is missing
                raise MissingParser from None
            raise
    # pypdf gives whatever object stands where a title should.
    return Document(id=str(path), title=title if isinstance(title, str) else "", text=text, headings=tuple(starts))


class _Patience:
    """Ends the reading of a file that takes too long for its size: its pages and drawings can share what is long.

    Args:
        num_bytes: Of the file.
    """

    def __init__(self, num_bytes: int) -> None:
        self._end_s = time.thread_time() + LEAST_S + S_PER_MB * num_bytes / 1e6

    def check(self, *_: object) -> None:
        """See that there is time left.

        Raises:
            Unreadable: There is none.
        """
        if time.thread_time() > self._end_s:
            raise Unreadable("takes too long to read", hint="save it anew with another program")


def _read_pages(reader: "PdfReader", patience: _Patience) -> tuple[str, list[int]]:
    pages, starts, length = [], [], 0
    for page in reader.pages:
        text = page.extract_text(visitor_operand_before=patience.check)
        patience.check()  # pypdf goes on after an error in a part of a page
        text = whole_characters(text).replace("\0", " ").strip()
        if not text:
            continue
        starts.append(length)
        pages.append(text)
        length += len(text) + len(BETWEEN_PAGES)
        check_length(length)  # now: pages can share one stream of text, so a small file can have any length
    return BETWEEN_PAGES.join(pages), starts
