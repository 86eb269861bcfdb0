"""Word files: everything that is written in them, in order, and archives that want to fill the memory."""

import io
import re
import struct
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffembed.library.reading.document import Document
from diffembed.library.reading.read import Unreadable, read_document
from tests.library.reading.made_files import docx, with_parts

pytestmark = pytest.mark.extra
pytest.importorskip("docx")

BODY = "word/document.xml"
NAMESPACES = (
    'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
)


def read(data: bytes) -> Document:
    return read_document(Path("my_letter.docx"), data)


def reason(data: bytes) -> str:
    with pytest.raises(Unreadable) as caught:
        read(data)
    return caught.value.reason


def fill(document) -> None:
    from docx.enum.style import WD_STYLE_TYPE

    document.add_heading("Chapter one", level=1)
    document.add_paragraph("  Some text.\nA line break.\tA tab. ")
    document.add_paragraph("")
    table = document.add_table(2, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "a", "b"
    table.cell(1, 0).add_paragraph("c")
    inner = table.cell(1, 1).add_table(1, 2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "d", "e"
    own = document.styles.add_style("My own", WD_STYLE_TYPE.PARAGRAPH)
    own.base_style = document.styles["Heading 2"]
    document.add_paragraph("Made from a heading", style="My own")
    document.add_paragraph("The end", style="List Bullet")


def with_body(xml: str, prolog: str = "") -> bytes:
    body = f"{prolog}<w:document {NAMESPACES}><w:body>{xml}</w:body></w:document>"
    return with_parts(docx(fill), {BODY: lambda _: body.encode()})


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_a_letter():
    document = read(docx(fill, title="Dear all"))
    assert document.text.split("\n\n") == [
        "Chapter one",
        "Some text.\nA line break.\tA tab.",
        "a\tb\nc\td e",
        "Made from a heading",
        "The end",
    ]
    starts = [document.text[start:].split("\n")[0] for start in document.headings]
    assert starts == ["Chapter one", "Made from a heading"]
    assert document.title == "Dear all"
    assert read(docx(fill)).title == "Chapter one"
    assert read(docx(lambda document: document.add_paragraph("x"))).title == "my letter"


def test_what_stands_in_wrappers_is_read_once():
    document = read(
        with_body(
            f"<w:sdt><w:sdtPr/><w:sdtContent>{paragraph('control')}</w:sdtContent></w:sdt>"
            "<w:p><w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:hyperlink><w:r><w:t>link</w:t></w:r></w:hyperlink>"
            "<w:ins><w:r><w:t>+new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
            "<w:r><w:noBreakHyphen/><w:br/><w:t>below</w:t></w:r></w:p>"
            "<w:p><w:r><w:t>around</w:t><mc:AlternateContent>"
            f"<mc:Choice><w:txbxContent>{paragraph('box')}</w:txbxContent></mc:Choice>"
            f"<mc:Fallback><w:txbxContent>{paragraph('box')}</w:txbxContent></mc:Fallback>"
            "</mc:AlternateContent></w:r></w:p>"
            f"<w:tbl><w:sdt><w:sdtContent><w:tr><w:tc>{paragraph('cell')}</w:tc></w:tr></w:sdtContent></w:sdt></w:tbl>"
        )
    )
    assert document.text.split("\n\n") == ["control", "link+new-\nbelow", "around", "box", "cell"]


def test_styles_that_are_made_from_each_other_end():
    def circle(styles: bytes) -> bytes:
        return styles.replace(
            b"</w:styles>",
            b'<w:style w:type="paragraph" w:styleId="X"><w:basedOn w:val="Y"/></w:style>'
            b'<w:style w:type="paragraph" w:styleId="Y"><w:basedOn w:val="X"/></w:style></w:styles>',
        )

    assert read(with_parts(docx(fill), {"word/styles.xml": circle})).headings


def test_a_long_chain_of_styles_takes_no_long_time():
    def chain(styles: bytes) -> bytes:
        links = "".join(
            f'<w:style w:type="paragraph" w:styleId="s{n}"><w:basedOn w:val="s{n + 1}"/></w:style>' for n in range(3000)
        )
        return styles.replace(b"</w:styles>", links.encode() + b"</w:styles>")

    start = time.process_time()
    assert len(read(with_parts(docx(fill), {"word/styles.xml": chain})).headings) == 2
    assert time.process_time() - start < 10


def test_a_file_without_properties_has_no_made_up_title():
    def without(relationships: bytes) -> bytes:
        return re.sub(rb"<Relationship [^>]*core-properties[^>]*/>", b"", relationships)

    for build, title in [(fill, "Chapter one"), (lambda document: document.add_paragraph("x"), "my letter")]:
        data = with_parts(docx(build, title="Dear all"), {"_rels/.rels": without})
        assert read(data).title == title


def test_parts_that_are_missing_do_not_matter_unless_they_hold_the_text():
    def dangling(relationships: bytes) -> bytes:
        kind = b"http://schemas.openxmlformats.org/officeDocument/2006/relationships/image"
        added = b'<Relationship Id="rId99" Type="%s" Target="NULL"/></Relationships>' % kind
        return relationships.replace(b"</Relationships>", added)

    assert read(with_parts(docx(fill), {"word/_rels/document.xml.rels": dangling})).text
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(docx(fill))) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            if name != BODY:
                target.writestr(name, source.read(name))
    assert reason(file.getvalue()).startswith("broken .docx: ")


def test_broken_and_empty_files():
    whole = docx(fill)
    for data in (b"", b"PK\3\4", b"plain text", whole[:2000], whole[2000:], with_body("<w:p>")):
        assert reason(data).startswith("broken .docx: ")
    assert reason(with_body("")) == "no text in it"
    assert reason(docx(lambda document: document.add_paragraph(" "))) == "no text in it"


def test_a_zip_bomb_is_refused():
    bomb = with_parts(docx(fill), {BODY: lambda _: bytes(130_000_000)})
    assert len(bomb) < 1_000_000
    assert reason(bomb) == "unpacks to over 128 MB"


@pytest.mark.parametrize("part", ["<a b=''/>", "<a/>" * 2, "<a " + " ".join(f"a{n}=''" for n in range(99)) + "/>"])
def test_very_many_tags_and_attributes_are_refused(part):
    marks = part.count("<") + part.count("=")
    assert reason(with_body(part * (4_000_000 // marks))) == "over 4 million tags and attributes"


def test_a_zip_bomb_that_lies_about_its_size_is_refused():
    bomb = bytearray(with_parts(docx(fill), {BODY: lambda _: bytes(130_000_000)}))
    bomb = bomb.replace(struct.pack("<L", 130_000_000), struct.pack("<L", 1_000))
    with zipfile.ZipFile(io.BytesIO(bomb)) as archive:
        assert archive.getinfo(BODY).file_size == 1_000
    assert reason(bytes(bomb)).startswith("broken .docx: ")


def test_other_packings_are_refused():
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(docx(fill))) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert reason(file.getvalue()) == "broken .docx: packed in an unknown way"


def test_entities_neither_multiply_nor_read_files(tmp_path):
    (tmp_path / "secret.txt").write_text("the secret")
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    bomb = with_body(paragraph("a &e12; b"), f'<!DOCTYPE x [<!ENTITY e0 "lol">{entities}]>')
    foreign = with_body(
        paragraph("a &e; b"), f'<!DOCTYPE x [<!ENTITY e SYSTEM "{(tmp_path / "secret.txt").as_uri()}">]>'
    )
    for data in (bomb, foreign):
        try:
            text = read(data).text
        except Unreadable:
            continue
        assert "lol" not in text and "secret" not in text


def test_deep_nesting_is_refused():
    deep = 5_000
    assert reason(with_body("<w:sdt>" * deep + paragraph("x") + "</w:sdt>" * deep)).startswith("broken .docx: ")


@given(place=st.integers(0, 40_000), byte=st.integers(0, 255))
def test_a_file_with_a_wrong_byte_gives_a_document_or_a_reason(place, byte):
    data = bytearray(WHOLE)
    data[place % len(data)] = byte
    try:
        assert read(bytes(data)).text.strip()
    except Unreadable as error:
        assert error.reason.isprintable()


WHOLE = docx(fill)
