"""Markdown: headings as a CommonMark parser sees them, so that a `#` in a code block is none."""

import re
from pathlib import Path

from diffembed.library.reading.document import Document
from diffembed.library.reading.plain import MOST_LINES, decode, line_starts

# It begins with a key: a page may as well begin with a rule that looks the same.
FRONT_MATTER = re.compile(
    r"---[ \t]*\n(?=[\w-]+[ \t]*:|#)(.*?)^(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE
)
FRONT_TITLE = re.compile(r"^title:(.*)$", re.MULTILINE)
LONGEST_TITLE = 1000
"""Characters of a heading in which markup is looked for: some inline markup takes quadratic time."""


def read(path: Path, data: bytes) -> Document:
    """Read a Markdown file as it stands, markup included; the title is that of the front matter or the first heading.

    Raises:
        Unreadable: It is no text.
    """
    from markdown_it import MarkdownIt  # a search reads no files and shouldn't wait for it

    text = decode(data)
    if text.count("\n") > MOST_LINES:
        return Document(id=str(path), text=text)
    front = FRONT_MATTER.match(text)
    # Left in, the line that closes the front matter would make a heading of the lines above it.
    start = front.end() if front else 0
    tokens = MarkdownIt("commonmark").disable("inline").parse(text[start:])
    starts = [start + offset for offset in line_starts(text[start:])]
    places = [place for place, token in enumerate(tokens) if token.type == "heading_open"]
    title = _front_title(front[1]) if front else ""
    if places and not title:
        title = _without_markup(tokens[places[0] + 1].content[:LONGEST_TITLE])
    lines = sorted({token.map[0] for token in (tokens[place] for place in places) if token.map})
    return Document(id=str(path), title=title, text=text, headings=tuple(starts[line] for line in lines))


def _front_title(front: str) -> str:
    found = FRONT_TITLE.search(front)
    title = found[1].strip().strip("\"'") if found else ""
    return title if any(c.isalnum() for c in title) else ""  # `>` and `|` announce a text on the next lines


def _without_markup(heading: str) -> str:
    from markdown_it import MarkdownIt

    children = [child for token in MarkdownIt("commonmark").parseInline(heading) for child in token.children or ()]
    return "".join(" " if child.type in ("softbreak", "hardbreak") else child.content for child in children)
