"""Word files (.docx): paragraphs and tables in the order in which they stand."""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffembed.library.reading.document import Document, MissingParser, Unreadable, refusing

if TYPE_CHECKING:
    from docx.document import Document as WordDocument
    from lxml.etree import _Element

MOST_UNPACKED_BYTES = 128_000_000
"""Of the parts that are read, together; those of a novel take a few million."""
MOST_MARKS = 4_000_000
"""Of `<` and `=` in them: a tag or an attribute takes a hundred bytes and more of memory. Those of a novel are some
hundred thousand."""
NEEDED = ("/officeDocument", "/styles", "/core-properties")
"""How the types of relationships end that are followed. Pictures, comments and fonts hold no text of the document, and
a file that Word opens can point to parts that aren't there."""
HEADING = re.compile(r"Title|Heading \d")
BETWEEN_BLOCKS = "\n\n"

WORD = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
SIGNS = {f"{WORD}tab": "\t", f"{WORD}br": "\n", f"{WORD}cr": "\n", f"{WORD}noBreakHyphen": "-"}
TEXT = frozenset((f"{WORD}t", "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"))
LEFT_OUT = frozenset(
    (
        *(f"{WORD}{name}" for name in ("del", "moveFrom", "pPr", "rPr", "sectPr", "tblPr", "trPr", "tcPr")),
        "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",  # says the same as its neighbour
    )
)
"""Deleted text that Word still tracks, and properties (tab stops have the name of tabs)."""


def read(path: Path, data: bytes) -> Document:
    """Read paragraphs, tables (a row a line, tabs between cells) and text boxes, apart by blank lines.

    Headings are paragraphs with one of Word's styles for headings and titles, or with a style made from one.

    Raises:
        Unreadable: It is broken, unpacks to too much, or python-docx is not installed.
    """
    try:
        import docx
        from docx.opc.constants import RELATIONSHIP_TYPE
    except ImportError:
        raise MissingParser from None
    with refusing(".docx"):
        document = docx.Document(io.BytesIO(_needed_parts(data)))
        heading_styles = _heading_styles(document)
        texts, headings, length = [], [], 0
        for paragraph, text in _blocks(document.element.body):
            if paragraph is not None and _style(paragraph) in heading_styles:
                headings.append((length, text))
            texts.append(text)
            length += len(text) + len(BETWEEN_BLOCKS)
        package = document.part.package
        assert package is not None
        # Asked for properties that aren't there, python-docx makes some up, a title among them.
        has_properties = any(each.reltype == RELATIONSHIP_TYPE.CORE_PROPERTIES for each in package.rels.values())
        title = document.core_properties.title if has_properties else ""
    return Document(
        id=str(path),
        title=title or (headings[0][1] if headings else ""),
        text=BETWEEN_BLOCKS.join(texts),
        headings=tuple(start for start, _ in headings),
    )


def _needed_parts(data: bytes) -> bytes:
    """Pack anew what is read of the file: what it says about its sizes need not be true."""
    from docx.oxml import parse_xml
    from lxml.etree import tostring

    room, marks = MOST_UNPACKED_BYTES, 0
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(packed, "w") as target:
        for name in sorted(set(source.namelist())):
            if not name.endswith((".xml", ".rels")):
                continue
            if source.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Unreadable("broken .docx: packed in an unknown way")  # others unpack without a limit
            with source.open(name) as member:
                part = bytearray()
                while piece := member.read(1 << 16):
                    part += piece
                    room -= len(piece)
                    if room < 0:
                        raise Unreadable(f"unpacks to over {MOST_UNPACKED_BYTES // 1_000_000} MB")
                    marks += piece.count(b"<") + piece.count(b"=")
                    if marks > MOST_MARKS:
                        raise Unreadable(f"over {MOST_MARKS // 1_000_000} million tags and attributes")
            if name.endswith(".rels"):
                relationships = parse_xml(bytes(part))
                for each in list(relationships):
                    if not str(each.get("Type")).endswith(NEEDED):
                        relationships.remove(each)
                part[:] = tostring(relationships)
            target.writestr(name, bytes(part))
    return packed.getvalue()


def _heading_styles(document: "WordDocument") -> set[str]:
    """Ids of the styles that are made from a heading's or a title's, at any remove."""
    styles = {style.style_id: (style.name or "", style.element.basedOn_val) for style in document.styles}
    is_heading = {style: True for style, (name, _) in styles.items() if HEADING.fullmatch(name)}
    for style in styles:
        chain: dict[str, None] = {}
        while style in styles and style not in is_heading and style not in chain:
            chain[style] = None
            style = styles[style][1]
        is_heading.update(dict.fromkeys(chain, is_heading.get(style, False)))
    return {style for style, is_one in is_heading.items() if is_one}


def _style(paragraph: "_Element") -> str | None:
    found = paragraph.find(f"{WORD}pPr/{WORD}pStyle")
    return None if found is None else found.get(f"{WORD}val")


def _blocks(element: "_Element") -> "Iterator[tuple[_Element | None, str]]":
    """Yield (paragraph, text) for each paragraph with text below an element, and (None, text) for each table."""
    for child in element:
        if child.tag == f"{WORD}p":
            pieces: list[str] = []
            boxes: list[_Element] = []
            _collect(child, pieces, boxes)
            if text := "".join(pieces).strip():
                yield child, text
            for box in boxes:
                yield from _blocks(box)
        elif child.tag == f"{WORD}tbl":
            rows = ("\t".join(_cells(row)).rstrip() for row in _nearest(child, f"{WORD}tr"))
            if text := "\n".join(row for row in rows if row.strip()):
                yield None, text
        elif child.tag not in LEFT_OUT:
            yield from _blocks(child)


def _cells(row: "_Element") -> Iterator[str]:
    return (" ".join(" ".join(text.split()) for _, text in _blocks(cell)) for cell in _nearest(row, f"{WORD}tc"))


def _nearest(element: "_Element", tag: str) -> "Iterator[_Element]":
    """The elements with a tag, but not what such an element holds itself: a cell may hold a table."""
    for child in element:
        if child.tag == tag:
            yield child
        elif child.tag not in LEFT_OUT:
            yield from _nearest(child, tag)


def _collect(element: "_Element", pieces: list[str], boxes: "list[_Element]") -> None:
    """Add the text of a run, link, insertion or whatever else a paragraph has in it."""
    for child in element:
        if child.tag in TEXT:
            pieces.append(child.text or "")
        elif child.tag in SIGNS:
            pieces.append(SIGNS[child.tag])
        elif child.tag == f"{WORD}txbxContent":
            boxes.append(child)
        elif child.tag not in LEFT_OUT:
            _collect(child, pieces, boxes)
