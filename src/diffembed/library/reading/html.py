"""HTML: the text that a browser shows, in one pass over its tags.

No tree is built: which blocks stand apart follows from the tags alone, and there are pages whose tree takes hours.
"""

import io
import re
from html import unescape
from pathlib import Path

from diffembed.library.reading.document import Document, check_length, refusing
from diffembed.library.reading.plain import decode


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


DECLARED = re.compile(rb"""(?:charset|<\?xml[^>]{1,60}encoding)\s*=\s*["']?([-\w.:]{1,40})""", re.IGNORECASE)
DECLARED_WITHIN = 1024
"""Bytes: as far as the HTML standard has browsers look."""
HEADINGS = _names("h1 h2 h3 h4 h5 h6")
HIDDEN = _names("template datalist")
DRAWINGS = _names("svg math")
HIDDEN_IN_DRAWINGS = _names("desc")
NO_MARKUP_IN = _names("title textarea xmp plaintext script style noscript iframe noembed noframes")
"""Elements in which only their own end tag is a tag; of them `VERBATIM` ones are shown."""
VERBATIM = _names("pre listing textarea xmp plaintext")
FIRST_NEWLINE_IS_NONE = _names("pre listing textarea")
GAPS = ("", " ", "\t", "\n", "\n\n")
"""What can stand between two pieces of text; of several the last in this order wins."""
PARAGRAPHS = _names(
    "address article aside blockquote body center dd details dialog div dl dt fieldset figcaption figure footer form "
    "h1 h2 h3 h4 h5 h6 header hgroup hr legend listing main menu nav ol p plaintext pre search section summary table "
    "ul xmp"
)
GAP_AROUND = {
    **dict.fromkeys(PARAGRAPHS, "\n\n"),
    **dict.fromkeys(("br", "caption", "li", "optgroup", "option", "select", "textarea", "tr"), "\n"),
    **dict.fromkeys(("td", "th"), "\t"),
}
SPACES = re.compile(r"[ \t\n\f\r\xa0]+")

# As the tokenizer of the HTML standard has them. No part gives back what it took (`*+`), and what has no end takes all
# the rest, once: so reading takes linear time.
TOKEN = re.compile(
    r"""<(?:
        (?P<slash>/?) (?P<name>[a-z][^\s/>]*+)
        (?: [\s/]*+ [^\s/>][^\s/>=]*+ (?: \s*+ = \s*+ (?: "[^"]*+" | '[^']*+' | [^\s>"'][^\s>]*+ )?+ )?+ )*+ [\s/]*+ >
      | /?[a-z] .*+
      | !-- (?: -?> | .*? (?: --!?> | \Z ) )
      | (?: [!?] | /(?!\Z) ) [^>]*+ >?
    )""",
    re.VERBOSE | re.ASCII | re.DOTALL | re.IGNORECASE,
)
END_OF = {name: re.compile(rf"</{name}(?=[\s/>])", re.ASCII | re.IGNORECASE) for name in NO_MARKUP_IN}


def read(path: Path, data: bytes) -> Document:
    """Read the visible text of a page, its blocks apart by blank lines; the title is `<title>` or the first `<h1>`.

    Raises:
        Unreadable: It is no text, too long, or in an unknown encoding.
    """
    declared = DECLARED.search(data[:DECLARED_WITHIN])
    source = decode(data, declared=declared[1].decode() if declared else "", is_markup=True)
    page = _Page()
    with refusing("HTML"):
        page.add(source.replace("\r", "\n"))
    text = page.text.getvalue()
    return Document(
        id=str(path),
        title=page.title if page.title.strip() else text[page.first_h1],
        text=text.rstrip(),
        headings=tuple(page.headings),
    )


class _Page:
    """Collects text, with white space as a browser shows it."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.title = ""
        self.headings: list[int] = []
        self.first_h1 = slice(0, 0)
        """Where its words are in the text."""
        self._length = 0
        self._gap = ""
        self._heading_waits = False
        self._is_in_first_h1 = False
        self._is_verbatim = False
        self._drawings = 0
        """How many are open."""
        self._hidden, self._hidden_depth = "", 0
        """The name of the outermost hidden element, and how many of that name are open."""

    def add(self, source: str) -> None:
        """Add the text of a page."""
        place = 0
        while token := TOKEN.search(source, place):
            self._write(unescape(source[place : token.start()]))
            place = token.end()
            name = (token["name"] or "").lower()  # comments and declarations have none
            begins = not token["slash"]
            self._pass(name, begins=begins)
            if not begins:
                continue
            # Elsewhere a browser overlooks such a slash.
            if (self._drawings or name in DRAWINGS) and source.endswith("/>", token.start(), place):
                self._pass(name, begins=False)
                continue
            if name in FIRST_NEWLINE_IS_NONE and source.startswith("\n", place):
                place += 1
            if name in NO_MARKUP_IN:
                end = END_OF[name].search(source, place)
                stop = end.start() if end else len(source)
                self._add_content(name, source[place:stop])
                place = stop
        self._write(unescape(source[place:]))

    def _pass(self, name: str, *, begins: bool) -> None:
        """Take note of a tag."""
        if name in DRAWINGS:
            self._drawings = max(0, self._drawings + (1 if begins else -1))
        if begins and not self._hidden and (name in HIDDEN or (self._drawings and name in HIDDEN_IN_DRAWINGS)):
            self._hidden = name
        if self._hidden:
            if name == self._hidden:
                self._hidden_depth += 1 if begins else -1
                self._hidden *= self._hidden_depth > 0
            return
        if gap := GAP_AROUND.get(name):
            self._leave(gap)
        if name in VERBATIM:
            self._is_verbatim = begins
        if name in HEADINGS:
            self._heading_waits = begins
            self._is_in_first_h1 = begins and name == "h1" and not self.first_h1.stop

    def _add_content(self, name: str, content: str) -> None:
        """Add what stands in an element where a tag is no tag."""
        if name == "title" and not (self.title.strip() or self._drawings or self._hidden):
            self.title = unescape(content)
        elif name in VERBATIM:
            self._write(unescape(content) if name == "textarea" else content)

    def _leave(self, gap: str) -> None:
        self._gap = max(self._gap, gap, key=GAPS.index)

    def _write(self, text: str) -> None:
        if self._hidden:
            return
        if not self._is_verbatim:
            text = SPACES.sub(" ", text)
            if text.startswith(" "):
                self._leave(" ")
        words = text if self._is_verbatim else text.strip(" ")
        if words:
            gap = self._gap if self._length else ""
            start = self._length + len(gap)
            self._length = start + len(words)
            check_length(self._length)
            self.text.write(gap)
            self.text.write(words)
            if self._heading_waits and words.strip():
                self.headings.append(start)
                self._heading_waits = False
            if self._is_in_first_h1:
                self.first_h1 = slice(self.first_h1.start if self.first_h1.stop else start, self._length)
            self._gap = ""
        if not self._is_verbatim and text.endswith(" "):
            self._leave(" ")
