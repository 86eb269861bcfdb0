"""Plain text, and the decoding that all kinds of text share."""

import codecs
import re
from pathlib import Path

from diffembed.library.reading.document import LONGEST_TEXT, Document, Unreadable, check_length

UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
# A file may name its encoding, and Python knows many that are no charset of texts (punycode takes quadratic time).
# The web's pages say iso-8859-1 and mean windows-1252, and browsers read them so.
CHARSETS = {
    **{f"iso8859{number}": f"iso8859-{number}" for number in range(2, 17) if number != 12},
    **{f"{name}125{number}": f"cp125{number}" for name in ("windows", "cp", "xcp") for number in range(9)},
    **dict.fromkeys(("iso88591", "latin1", "ascii", "usascii"), "cp1252"),
    **dict.fromkeys(("gb2312", "gbk", "gb18030"), "gb18030"),
    **dict.fromkeys(("shiftjis", "sjis", "xsjis", "windows31j"), "cp932"),
    **dict.fromkeys(("euckr", "ksc56011987", "ksc5601"), "cp949"),
    **{"latin9": "iso8859-15", "koi8r": "koi8-r", "koi8u": "koi8-u", "big5": "big5hkscs", "eucjp": "euc_jp"},
    **{"tis620": "tis-620", "windows874": "cp874", "macintosh": "mac-roman", "iso2022jp": "iso2022_jp"},
}
NEWLINE = re.compile(r"\r\n?|\n")
MOST_LINES = 200_000
"""In which headings are looked for: parsing takes a kilobyte a line, and what is longer is made by a machine."""
CHARACTER_BYTES = 4
"""Of a character in UTF-8 or UTF-16, at most."""


def read(path: Path, data: bytes) -> Document:
    """Read a plain text, which has no title and no headings.

    Raises:
        Unreadable: It is binary, or not in UTF-8 (nor in UTF-16 with a byte order mark).
    """
    return Document(id=str(path), text=decode(data))


def decode(data: bytes, *, declared: str = "", is_markup: bool = False) -> str:
    r"""Turn the bytes of a text file into text: without byte order mark, \r\n as \n, all else as it is.

    Args:
        data: UTF-8, or UTF-16 with a byte order mark, or in the declared encoding.
        declared: The encoding that the file itself names, in any spelling; counts only where UTF-8 doesn't fit, because
            such names are often left from a time before the file was converted.
        is_markup: Whether the document's text is taken from this one, and may be short where this one is long.

    Raises:
        Unreadable: It is binary, in another encoding, or too long.
    """
    if not is_markup and len(data) > CHARACTER_BYTES * LONGEST_TEXT:
        check_length(len(data))  # without decoding it
    if utf_16 := UTF_16.get(data[:2]):
        text = _strict(data, utf_16, "UTF-16").removeprefix("\ufeff")
    else:
        if b"\0" in data:
            raise Unreadable("binary")
        charset = CHARSETS.get(re.sub(r"[^a-z0-9]", "", declared.lower()))
        try:
            # ISO-2022 is all ASCII bytes with escapes, which would pass as UTF-8.
            text = data.decode("iso2022_jp" if charset == "iso2022_jp" else "utf-8").removeprefix("\ufeff")
        except UnicodeDecodeError:
            text = _strict(data, charset or "utf-8", declared if charset else "UTF-8")
    if "\0" in text:
        raise Unreadable("binary")
    if not is_markup:
        check_length(len(text))  # before it is parsed
    return text.replace("\r\n", "\n")


def line_starts(text: str) -> list[int]:
    r"""Offset of each line by its number from 0; a line ends at \n, \r\n or \r, as Python and Markdown see it."""
    return [0, *(match.end() for match in NEWLINE.finditer(text))]


def _strict(data: bytes, codec: str, name: str) -> str:
    try:
        return data.decode(codec)
    except UnicodeDecodeError as error:
        raise Unreadable(f"not {name} text (bad byte at offset {error.start})") from None
