"""reStructuredText: section titles by their underlines and overlines."""

import re
import string
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from diffembed.library.reading.document import Document
from diffembed.library.reading.plain import MOST_LINES, decode, line_starts

RULE = re.compile(rf"([{re.escape(string.punctuation)}])\1*")
LONG_RULE = 4
"""Columns from which on a rule makes a title of a longer line too, as docutils has it (with a warning)."""
NO_TITLE = re.compile(r"\s|\.\. |[-*+] |>>> ")
"""How a line begins that is no title, whatever is under it: indented, a directive, a list item, a doctest."""


def read(path: Path, data: bytes) -> Document:
    """Read a reStructuredText file as it stands; the title is that of its first section.

    Raises:
        Unreadable: It is no text.
    """
    text = decode(data)
    if text.count("\n") > MOST_LINES:
        return Document(id=str(path), text=text)
    starts = line_starts(text)
    lines = [text[start:end].rstrip() for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    found = find_titles(lines)
    return Document(
        id=str(path),
        title=lines[found[0][1]] if found else "",
        text=text,
        headings=tuple(starts[first] for first, _ in found),
    )


def find_titles(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Find the section titles.

    Args:
        lines: Without white space at their ends.

    Returns:
        Of each title two line numbers, from 0: its first line (an overline, where it has one), and that of its words.
    """
    found = []
    number = 0
    begins_block = True  # a line under another line of a paragraph is no title
    while number < len(lines):
        first, second, third = [*lines[number : number + 3], "", ""][:3]
        if begins_block and first == third and not RULE.fullmatch(second) and _rules(first, second.strip()):
            found.append((number, number + 1))
            number += 3
        elif begins_block and not NO_TITLE.match(first) and not RULE.fullmatch(first) and _rules(second, first):
            found.append((number, number))
            number += 2
        else:
            begins_block = not first
            number += 1
    return found


def _rules(line: str, title: str) -> bool:
    """Whether a line is the rule over or under a title."""
    if not title or not RULE.fullmatch(line):
        return False
    # A Chinese character takes two columns.
    width = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in title[:LONG_RULE])
    return len(line) >= min(width, LONG_RULE)
