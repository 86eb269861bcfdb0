"""Files of the kinds that are read, made by hand or by the packages that write them."""

import io
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def folder_of_nobody() -> Iterator[Path]:
    """A folder of a user whom permissions bind, and this process as that user: they don't bind root."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, NOBODY, -1)
        try:
            os.seteuid(NOBODY)
        except OSError:
            pytest.skip("this machine doesn't let root become another user")
        try:
            os.listdir(name)
        except OSError:
            os.seteuid(0)
            pytest.skip("the temporary folder is root's alone")
        try:
            yield Path(name)
        finally:
            os.seteuid(0)


def pdf(pages: Sequence[str], *, title: str = "") -> bytes:
    """A PDF file whose pages show a line each; an empty line gives a page without text."""
    numbers = range(4, 4 + 2 * len(pages), 2)
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(pages), b" ".join(b"%d 0 R" % number for number in numbers)),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, line in zip(numbers, pages, strict=True):
        drawn = b"BT /F1 12 Tf 72 700 Td (%s) Tj ET" % line.encode("cp1252") if line else b""
        bodies.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R" % (number + 1)
            + b" /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        bodies.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(drawn), drawn))
    bodies.append(b"<< /Title (%s) >>" % title.encode("cp1252"))
    return pdf_of(bodies, b"/Root 1 0 R /Info %d 0 R" % len(bodies))


def pdf_of(bodies: Sequence[bytes], trailer: bytes) -> bytes:
    """A PDF file of numbered objects, from 1, with a table that says where each is."""
    data = b"%PDF-1.4\n"
    places = []
    for number, body in enumerate(bodies, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % (len(bodies) + 1)
    data += b"".join(b"%010d 00000 n \n" % place for place in places)
    return data + b"trailer\n<< /Size %d %s >>\nstartxref\n%d\n%%%%EOF\n" % (len(bodies) + 1, trailer, start)


def docx(build: Callable, *, title: str = "") -> bytes:
    """A Word file: `build` gets an empty document of python-docx and fills it."""
    import docx as python_docx

    document = python_docx.Document()
    document.core_properties.title = title
    build(document)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def with_parts(data: bytes, changes: Mapping[str, Callable[[bytes], bytes]]) -> bytes:
    """A zip file with some of its members changed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, changes.get(name, bytes)(source.read(name)))
    return file.getvalue()
