"""Whatever lies in a folder gives a document or a reason, and nothing else."""

import errno
import hashlib
import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.library.reading import markdown, restructured
from diffembed.library.reading.document import whole_characters
from diffembed.library.reading.read import (
    KINDS,
    MAX_BYTES,
    Unreadable,
    digest,
    is_rows,
    is_verbatim,
    kind_of,
    read_bytes,
    read_document,
)
from diffembed.library.reading.rows import Rows
from tests.library.reading.made_files import folder_of_nobody

TEXTS = (".txt", ".md", ".rst", ".py", ".unknown")
PAGES = (".html", ".htm")
NEEDS_DOCS = (".pdf", ".docx")
ODD_TEXT = st.text(
    st.sampled_from("a#=-*>`~:\"'()[]{}<>/&;@\\ \t\n\r\f\v\x85\u2028é漢🙂") | st.characters(codec="utf-8"), max_size=200
)


def reason(path: Path | str, data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        read_document(Path(path), data)
    assert caught.value.hint
    return caught.value.reason


def check(suffix: str, data: bytes) -> None:
    """The promise of a document, for any bytes."""
    try:
        document = read_document(Path("some_file" + suffix), data)
    except Unreadable as error:
        assert error.reason and error.reason.isprintable() and len(error.reason) < 200
        return
    (document.text + document.title).encode()
    assert document.text.strip() and document.title and len(document.title) <= 200
    assert "\0" not in document.text
    assert list(document.headings) == sorted(set(document.headings))
    assert all(document.text[start:].strip() for start in document.headings)


@pytest.mark.parametrize("suffix", [*TEXTS, *PAGES])
@given(data=st.binary(max_size=200) | ODD_TEXT.map(str.encode) | ODD_TEXT.map(lambda text: text.encode("utf-16")))
def test_any_bytes_give_a_document_or_a_reason(suffix, data):
    check(suffix, data)


@pytest.mark.extra
@pytest.mark.parametrize("suffix", NEEDS_DOCS)
@given(data=st.binary(max_size=200) | ODD_TEXT.map(str.encode), start=st.sampled_from([b"", b"%PDF-1.7\n", b"PK\3\4"]))
def test_any_bytes_give_a_document_or_a_reason_for_the_extra_kinds(suffix, data, start):
    check(suffix, start + data)


@pytest.mark.parametrize("suffix", TEXTS)
def test_every_kind_of_text_is_decoded_alike(suffix):
    path = Path("notes" + suffix)
    assert read_document(path, "# größe\r\nx\n".encode("utf-8-sig")).text == "# größe\nx\n"
    assert read_document(path, "# größe 🙂".encode("utf-16")).text == "# größe 🙂"
    assert read_document(path, b"\xfe\xff" + "# größe".encode("utf-16-be")).text == "# größe"
    assert read_document(path, b"# x\ry\x0cz").text == "# x\ry\x0cz"
    assert reason(path, b"ab\0c") == "binary"
    assert reason(path, "x\0y".encode("utf-16")) == "binary"
    assert reason(path, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR") == "binary"
    assert reason(path, b"caf\xe9 au lait") == "not UTF-8 text (bad byte at offset 3)"
    assert reason(path, b"\xef\xbb\xbfabc\xff") == "not UTF-8 text (bad byte at offset 6)"
    assert reason(path, b"\xff\xfea\0\x00\xd8") == "not UTF-16 text (bad byte at offset 4)"
    for empty in (b"", b" \n\t\n", b"\xef\xbb\xbf", "　\u2028".encode()):
        assert reason(path, empty) == "no text in it"


def test_titles_from_names():
    for name, title in [("my_first-note.v2.txt", "my first note.v2"), ("README", "README"), ("__.txt", "__")]:
        assert read_document(Path("/some/where") / name, b"x").title == title
    assert read_document(Path("/some/where/a.txt"), b"x").id == "/some/where/a.txt"
    assert len(read_document(Path("a.md"), b"# " + b"word " * 1000).title) == 200


def test_kinds_follow_the_suffix_in_any_letters():
    assert [kind_of(name) for name in ("a.TXT", "a.HtMl", "a.b.md", "a.jsonl.gz", "A.JSONL")] == [
        ".txt",
        ".html",
        ".md",
        ".jsonl.gz",
        ".jsonl",
    ]
    assert [kind_of(name) for name in ("txt", ".txt", "a.gz", "a.json", "a.txt~")] == [None] * 5
    assert [is_rows(Path(name)) for name in ("a.jsonl", "a.jsonl.gz", "a.txt", "a.gz")] == [True, True, False, False]


def test_bytes_of_a_file_and_of_a_link_to_it(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b.txt").symlink_to("a.txt")
    assert read_bytes(tmp_path / "b.txt") == b"x" * 3_000_000


def test_what_cannot_be_read_says_why(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "log.txt").touch()
    os.truncate(tmp_path / "log.txt", 1 << 30)
    wanted = {
        "pipe.txt": "not a regular file",
        ".": "not a regular file",
        "loop.txt": "a link that leads back to itself",
        "gone.txt": "not there any more",
        "log.txt": "over 64 MB",
    }
    for name, expected in wanted.items():
        with pytest.raises(Unreadable) as caught:
            read_bytes(tmp_path / name)
        assert caught.value.reason == expected
    assert reason("a.txt", bytes(MAX_BYTES + 1)) == "over 64 MB"


def test_an_endless_file_that_says_it_is_empty_ends():
    with pytest.raises(Unreadable, match="not a regular file"):
        read_bytes(Path("/dev/zero"))


def test_what_may_pass_is_told_from_what_is_so(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "a.jsonl").write_text("{}")
    real = os.open
    for number, is_for_now in [
        *((number, True) for number in (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.EMFILE)),
        *((number, False) for number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)),
    ]:

        def refuse(path, *args, number=number):
            if str(path).startswith(str(tmp_path)):
                raise OSError(number, os.strerror(number))
            return real(path, *args)

        monkeypatch.setattr(os, "open", refuse)
        for read in (
            lambda: read_bytes(tmp_path / "a.txt"),
            lambda: list(Rows(tmp_path / "a.jsonl")),
            lambda: digest(tmp_path / "a.txt"),
            lambda: digest(tmp_path / "a.jsonl"),
        ):
            with pytest.raises(Unreadable) as caught:
                read()
            assert caught.value.is_for_now == is_for_now
    monkeypatch.undo()
    for data in (b"\0", b"", b"\xff"):
        with pytest.raises(Unreadable) as caught:
            read_document(tmp_path / "a.txt", data)
        assert not caught.value.is_for_now


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_digests(tmp_path, name):
    (tmp_path / name).write_bytes(b"abc" * 700_000)
    assert digest(tmp_path / name) == (hashlib.sha256(b"abc" * 700_000).hexdigest(), 2_100_000)


def test_lines_that_are_those_of_the_file():
    names = ["a.txt", "A.TXT", "b.Md", "c.rst", "d.py", "Makefile", "x.log", "e.html", "f.PDF", "g.docx", "h.jsonl"]
    assert [is_verbatim(f"/some.where/{name}") for name in names] == [True] * 7 + [False] * 4


@pytest.mark.parametrize(("suffix", "reader"), [(".md", markdown), (".rst", restructured)])
def test_a_text_of_very_many_lines_has_no_sections(monkeypatch, suffix, reader):
    data = b"Title\n=====\n\ntext\n\nMore\n----\n\ntext\n"
    assert len(read_document(Path("a" + suffix), data).headings) == 2
    monkeypatch.setattr(reader, "MOST_LINES", 8)
    found = read_document(Path("a" + suffix), data)
    assert (found.headings, found.text, found.title) == ((), data.decode(), "a")


def test_a_file_without_permission():
    with folder_of_nobody() as folder:
        for name in ("a.txt", "a.jsonl"):
            (folder / name).write_text("{}")
            (folder / name).chmod(0)
        for read in (lambda: read_bytes(folder / "a.txt"), lambda: list(Rows(folder / "a.jsonl"))):
            with pytest.raises(Unreadable) as caught:
                read()
            assert caught.value.reason == "no permission"
        (folder / "a.txt").chmod(stat.S_IRWXU)


@pytest.mark.parametrize(("suffix", "package"), [(".pdf", "pypdf"), (".docx", "docx")])
def test_a_missing_parser_is_a_reason(monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'diffembed[docs]'" in reason("a" + suffix, b"anything")


def test_every_kind_has_a_reader_or_rows():
    assert {suffix for suffix, reader in KINDS.items() if reader is None} == {".jsonl", ".jsonl.gz"}
    assert {*TEXTS[:-1], *PAGES, *NEEDS_DOCS, ".jsonl", ".jsonl.gz"} == set(KINDS)


@given(st.text(st.characters(categories=["Lu", "Cs"]) | st.sampled_from("\ud83d\ude42\ud800"), max_size=20))
def test_whole_characters(text):
    whole = whole_characters(text)
    assert whole == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert whole_characters(whole) == whole and not any("\ud800" <= c <= "\udfff" for c in whole)
