"""PDF: pages with their text, and every way in which such a file can be broken."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.library.reading import document
from diffembed.library.reading import pdf as reader
from diffembed.library.reading.document import Document
from diffembed.library.reading.read import Unreadable, read_document
from tests.library.reading.made_files import pdf, pdf_of

pytestmark = pytest.mark.extra
pypdf = pytest.importorskip("pypdf")

PAGES = ["First page of it", "", "Third: caf\xe9"]


def read(data: bytes) -> Document:
    return read_document(Path("my_report.pdf"), data)


def reason(data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        read(data)
    return caught.value.reason


def encrypted(password: str, algorithm: str = "RC4-128") -> bytes:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf(PAGES)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm=algorithm)
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_pages():
    document = read(pdf(PAGES, title="A report"))
    assert document.text == "First page of it\n\nThird: café"
    assert [document.text[start:][:5] for start in document.headings] == ["First", "Third"]
    assert document.title == "A report"
    assert read(pdf(PAGES)).title == "my report"


@pytest.mark.parametrize("algorithm", ["RC4-128", "AES-128", "AES-256"])
def test_encrypted_files(algorithm):
    assert reason(encrypted("secret", algorithm)) == "encrypted PDF"
    assert read(encrypted("", algorithm)).text == read(pdf(PAGES)).text


def test_a_cipher_that_is_not_installed_is_named(tmp_path):
    """Not everybody who has pypdf has what it needs for AES."""
    (tmp_path / "a.pdf").write_bytes(encrypted("", "AES-256"))
    code = (
        "import sys; sys.modules['cryptography'] = sys.modules['Crypto'] = None\n"
        "from pathlib import Path; from diffembed.library.reading.read import read_document\n"
        "try: read_document(Path('a.pdf'), Path(sys.argv[1]).read_bytes())\n"
        "except Exception as error: print(type(error).__name__, error.is_for_now, error.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.pdf")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "MissingParser True needs the extra `docs` (pip install 'diffembed[docs]')\n"


def test_a_broken_cipher_reads_as_encrypted():
    page = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 0 /Kids [] >>"]
    key = b"<" + b"00" * 48 + b">"
    cipher = b"<< /Filter /Standard /V 5 /R 6 /Length 256 /P -4 /O %s /U %s /OE %s /UE %s /Perms <%s>" % (
        (key,) * 2 + (b"<" + b"00" * 32 + b">",) * 2 + (b"00" * 16,)
    )
    cipher += b" /CF << /StdCF << /CFM /AESV3 /Length 32 >> >> /StmF /StdCF /StrF /StdCF >>"
    assert reason(pdf_of([*page, cipher], b"/Root 1 0 R /Encrypt 3 0 R /ID [<00> <00>]")) == "encrypted PDF"


def test_files_without_text():
    assert reason(pdf([])) == "no text in it"
    assert reason(pdf(["", ""])) == "no text in it"


def test_broken_files(capfd):
    whole = pdf(PAGES)
    for data in (b"", b"%PDF-1.7", b"not a PDF at all", whole[:100], whole[-300:]):
        assert reason(data).startswith("broken PDF: ")
    assert capfd.readouterr() == ("", "")  # the parser's remarks are not the user's


def test_pages_that_share_a_text_have_an_end(monkeypatch):
    monkeypatch.setattr(document, "LONGEST_TEXT", 100)
    assert reason(pdf(["one and the same line"] * 5)) == "over 0.0001 million characters"
    assert read(pdf(["one and the same line"] * 4)).text


@pytest.mark.parametrize("title", [b"42", b"[1 2]", b"true", b"5 0 R", b"<</a 1>>", b"null"])
def test_a_title_that_is_no_text_is_none(title):
    data = pdf(PAGES, title="x" * 20).replace(b"(" + b"x" * 20 + b")", title.ljust(22))
    assert read(data).title == "my report"


BUSY = b"BT /F1 12 Tf (x) Tj ET " + b"q " * 20_000
FONT = b"/Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >>"


@pytest.mark.parametrize(
    ("num_pages", "page", "form"), [(300, BUSY, b""), (1, b"/X Do " * 300, BUSY), (1, b"/X Do " * 300, b"1 " * 40_000)]
)
def test_pages_and_drawings_that_share_much_work_have_an_end(monkeypatch, num_pages, page, form):
    monkeypatch.setattr(reader, "LEAST_S", 0.3)
    monkeypatch.setattr(reader, "S_PER_MB", 0)
    bodies = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (num_pages, b"3 0 R " * num_pages),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R"
        b" /Resources << %s /XObject << /X 5 0 R >> >> >>" % FONT,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(page), page),
        b"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << %s >> /Length %d >>\nstream\n%s\nendstream"
        % (FONT, len(form), form),
    ]
    start = time.process_time()
    assert reason(pdf_of(bodies, b"/Root 1 0 R")) == "takes too long to read"
    assert time.process_time() - start < 5


def test_a_page_tree_that_contains_itself():
    tree = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 9 /Kids [2 0 R 2 0 R] >>"]
    assert reason(pdf_of(tree, b"/Root 1 0 R"))


def test_a_stream_starts_no_other_program(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.run", refuse)
    assert reason(pdf(["text"]).replace(b"<< /Length", b"<< /Filter /JBIG2Decode /Length")).startswith("broken PDF: ")


@given(end=st.integers(0, 1500))
def test_a_file_cut_anywhere_gives_a_document_or_a_reason(end):
    check(pdf(PAGES)[:end])


@given(place=st.integers(0, 1500), byte=st.integers(0, 255))
def test_a_file_with_a_wrong_byte_gives_a_document_or_a_reason(place, byte):
    data = bytearray(pdf(PAGES))
    data[place % len(data)] = byte
    check(bytes(data))


def check(data: bytes) -> None:
    try:
        assert read(data).text.strip()
    except Unreadable as error:
        assert error.reason.isprintable()
