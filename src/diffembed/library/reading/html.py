"""HTML: the text that a browser shows."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffembed.library.reading.document import Document, MissingParser, Unreadable, refusing
from diffembed.library.reading.plain import decode

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


DECLARED = re.compile(rb"""(?:charset|<\?xml[^>]{1,60}encoding)\s*=\s*["']?([-\w.:]{1,40})""", re.IGNORECASE)
DECLARED_WITHIN = 1024
"""Bytes: as far as the HTML standard has browsers look."""
HEADINGS = _names("h1 h2 h3 h4 h5 h6")
UNSEEN = _names("head title desc script style template noscript iframe noembed noframes datalist")
GAPS = ("", " ", "\t", "\n", "\n\n")
"""What can stand between two pieces of text; of several the last in this order wins."""
PARAGRAPHS = _names(
    "address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 header hgroup hr legend main menu nav ol p pre search section summary table ul"
)
GAP_AROUND = {
    **dict.fromkeys(PARAGRAPHS, "\n\n"),
    **dict.fromkeys(("br", "caption", "li", "textarea", "tr"), "\n"),
    **dict.fromkeys(("td", "th"), "\t"),
}
SPACES = re.compile(r"[ \t\n\f\r\xa0]+")

# What parsing costs grows with the square of the depth of nesting; browsers stop at 512 too.
DEEPEST = 512
MOST_TAGS = 5_000_000
"""Each makes a node of a few hundred bytes."""
TAG = re.compile(r"<(/?)([a-zA-Z][^\s/>]*)")
# Elements that change no text. Open ones are made anew in each paragraph, which can multiply.
FORMATTING = _names("a b big code em font i nobr s small strike strong tt u")
# The parser takes quadratic time for many options.
CHOICES = _names("select optgroup option")
# Void ones, those whose content is no markup, and those that the next of their kind closes: none nests by itself.
FLAT = _names(
    "area base br col embed hr img input link meta param source track wbr "
    "script style iframe noembed noframes textarea title xmp plaintext "
    "html head body p li dt dd tr td th thead tbody tfoot colgroup rb rt rp rtc"
)


def read(path: Path, data: bytes) -> Document:
    """Read the visible text of a page, its blocks apart by blank lines; the title is `<title>` or the first `<h1>`.

    Raises:
        Unreadable: It is no text, in an unknown encoding, or selectolax is not installed.
    """
    try:
        from selectolax.lexbor import LexborHTMLParser
    except ImportError:
        raise MissingParser from None
    declared = DECLARED.search(data[:DECLARED_WITHIN])
    source = decode(data, declared=declared[1].decode() if declared else "", is_markup=True)
    if source.count("<") > MOST_TAGS:
        raise Unreadable(f"broken HTML: over {MOST_TAGS // 1_000_000} million tags")
    with refusing("HTML"):
        parser = LexborHTMLParser(flatten(source))
        titles = parser.head.css("title") if parser.head else []
        title = titles[0].text() if titles else ""
        page = _Page()
        if parser.root:
            page.add(parser.root)
    return Document(
        id=str(path),
        title=title if title.strip() else page.first_h1,
        text="".join(page.pieces).rstrip(),
        headings=tuple(page.headings),
    )


def flatten(html: str) -> str:
    """Rename tags that would make parsing slow and that the text can do without; text and attributes stay.

    Formatting becomes `wbr`, which is nothing; options, and whatever is nested too deeply, become line breaks.
    """
    open_names: list[str] = []

    def rename(tag: re.Match[str]) -> str:
        name = tag[2].lower()
        if name in FORMATTING:
            return f"<{tag[1]}wbr"
        if name in CHOICES:
            return f"<{tag[1]}br"
        if name in FLAT:
            return tag[0]
        if tag[1]:
            # A parser may ignore an end tag that fits badly: counting too deep only loses structure.
            if open_names and open_names[-1] == name:
                open_names.pop()
            return tag[0]
        if len(open_names) >= DEEPEST:
            return "<br"
        open_names.append(name)
        return tag[0]

    return TAG.sub(rename, html)


class _Page:
    """Collects text in pieces, with white space as a browser shows it."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.headings: list[int] = []
        self.first_h1 = ""
        self._length = 0
        self._gap = ""
        self._heading_waits = False

    def add(self, root: "LexborNode") -> None:
        """Add the text below a node."""
        verbatim = 0
        h1_from: int | None = None
        for node, begins in _walk(root):
            tag = node.tag or ""
            if tag == "-text":
                if begins:
                    self._write(node.text_content or "", is_verbatim=verbatim > 0)
                continue
            if gap := GAP_AROUND.get(tag):
                self._leave(gap)
            if tag in ("pre", "textarea"):
                verbatim += 1 if begins else -1
            if tag in HEADINGS:
                self._heading_waits = begins
            if tag == "h1" and not self.first_h1:
                if begins:
                    h1_from = len(self.pieces)
                elif h1_from is not None:
                    self.first_h1 = "".join(self.pieces[h1_from:]).strip()

    def _leave(self, gap: str) -> None:
        self._gap = max(self._gap, gap, key=GAPS.index)

    def _write(self, text: str, *, is_verbatim: bool) -> None:
        if not is_verbatim:
            text = SPACES.sub(" ", text)
            if text.startswith(" "):
                self._leave(" ")
        words = text if is_verbatim else text.strip(" ")
        if words:
            gap = self._gap if self.pieces else ""
            if self._heading_waits and words.strip():
                self.headings.append(self._length + len(gap))
                self._heading_waits = False
            self.pieces += [gap, words]
            self._length += len(gap) + len(words)
            self._gap = ""
        if not is_verbatim and text.endswith(" "):
            self._leave(" ")


def _walk(root: "LexborNode") -> Iterator[tuple["LexborNode", bool]]:
    """Each node twice, when it begins (True) and when it ends; without recursion, for pages nest as they like."""
    open_nodes: list[LexborNode] = []
    following: LexborNode | None = root
    while following is not None:
        node = following
        yield node, True
        following = None if node.tag in UNSEEN else node.child
        if following is not None:
            open_nodes.append(node)
            continue
        yield node, False
        following = node.next
        while following is None and open_nodes:
            node = open_nodes.pop()
            yield node, False
            following = node.next
