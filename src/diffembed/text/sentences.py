"""Where the sentences of a text begin and end. All offsets count characters."""

import re
from collections.abc import Iterator

Span = tuple[int, int]

LONGEST_SENTENCE = 400

# Latin, Arabic, Devanagari, Armenian and Ethiopic marks need white space behind them, CJK marks don't.
_STOPS, _CJK_STOPS = ".!?…؟۔।॥։።", "。！？｡"
_CLOSERS = "\"'”’»›)\\]}*_`」』）】》"
# The guard before the first character keeps a long run of full stops from being read once for each of them.
_STOP = re.compile(rf"(?<![{_STOPS}])[{_STOPS}]++[{_CLOSERS}]*+(?=\s|\Z)|[{_CJK_STOPS}]++[{_STOPS}{_CLOSERS}]*+")
_OPENERS = re.compile(r"\s*+[\"'“‘«‹(\[{*_¿¡]*+")
_LAST_WORD = re.compile(r"[\w.]*\Z")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_LONGEST_ABBREVIATION = 12
_ALWAYS_SHORT = re.compile(r"[DM]r|Mr?s|Prof|Rev|Hon|Gen|Col|Sgt|Lt|Capt|St|Mt|Ph\.D|[Vv]s?|[Vv]iz|[Cc]f|[Ee]g|[Ii]e")
_SHORT_BEFORE_DIGITS = re.compile(
    r"nos?|nr|figs?|eqs?|sec|ch|vol|pp?|art|al|ca|approx|tab|ed|abb"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec",
    re.IGNORECASE,
)
_LINE_HEAD = re.compile(
    r"(?P<indent>[^\S\n]*+)(?:(?P<blank>\n|\Z)|(?P<item>[-*+•–·]\s|\(?(?:\d{1,3}|[a-zA-Z])[.)]\s|\|)|(?P<heading>\#{1,6}\s))?"
)
_SPACE = re.compile(r"\s*+")
_CLAUSE_END = re.compile(r"[,;:](?=\s)|[，、；：]")


def sentences(text: str) -> list[Span]:
    """Find the sentences of a text; a heading, a list item and a row of a table are some too.

    A sentence ends at a full stop, question or exclamation mark and white space, unless what follows begins in lower
    case or the stop belongs to an abbreviation, an initial or the number of a list item; at CJK marks always; and at
    the end of a paragraph, list item or heading. One over 400 characters is cut after a comma or between words.

    Returns:
        Spans [start, end) in order, without white space at their ends. They cover every character that is none.
    """
    found = []
    start = 0
    for end in sorted({*sentence_ends(text), *_block_ends(text), len(text)}):
        piece = text[start:end]
        stripped = piece.strip()
        if stripped:
            first = start + len(piece) - len(piece.lstrip())
            found.extend(_cut_long(text, first, first + len(stripped)))
        start = end
    return found


def sentence_ends(text: str) -> Iterator[int]:
    """Offsets just behind the marks that end a sentence."""
    for match in _STOP.finditer(text):
        start, end = match.span()
        if text[start] in _CJK_STOPS or end == len(text):
            yield end
            continue
        after = _OPENERS.match(text, end).end()  # type: ignore[union-attr]
        following = text[after : after + 1]
        if following.islower() or (text[start] == "." and _is_abbreviation(text, start, following)):
            continue
        yield end


def _is_abbreviation(text: str, stop: int, following: str) -> bool:
    """Say if the full stop at `stop` belongs to the word before it."""
    if not text[stop - 1 : stop].isalnum():
        return False
    start = max(0, stop - _LONGEST_ABBREVIATION)
    word = _LAST_WORD.search(text, start, stop).group()  # type: ignore[union-attr]
    if _ALWAYS_SHORT.fullmatch(word) or _INITIALS.fullmatch(word) or (len(word) == 1 and word.isupper()):
        return True
    if following.isdigit() and _SHORT_BEFORE_DIGITS.fullmatch(word):
        return True
    # The number of a list item: nothing but white space before it on its line.
    is_number = (word.isdigit() and len(word) <= 3) or (len(word) == 1 and word.isalpha())
    before = text[start : stop - len(word)]
    return is_number and not before.rpartition("\n")[2].strip() and (start == 0 or "\n" in before)


def _block_ends(text: str) -> Iterator[int]:
    """Offsets of lines that begin something new: behind a blank line or a heading, a list item, what follows a list."""
    item_indent, is_new = -1, False
    start = 0
    while start < len(text):
        head = _LINE_HEAD.match(text, start)
        assert head is not None
        indent = len(head["indent"])
        is_item, is_heading, is_blank = (head[name] is not None for name in ("item", "heading", "blank"))
        if is_new or is_item or is_heading or is_blank or indent <= item_indent:
            yield start
        item_indent = indent if is_item else -1 if is_blank or is_heading or indent <= item_indent else item_indent
        is_new = is_heading
        end = text.find("\n", start)
        start = end + 1 if end >= 0 else len(text)


def _cut_long(text: str, start: int, end: int) -> Iterator[Span]:
    """Cut a sentence that is too long behind a comma in the second half of what fits, or else behind a word."""
    while end - start > LONGEST_SENTENCE:
        limit = start + LONGEST_SENTENCE
        half = start + LONGEST_SENTENCE // 2
        clauses = [match.end() for match in _CLAUSE_END.finditer(text, half, limit)]
        cut = clauses[-1] if clauses else limit
        if not clauses and not text[limit].isspace():
            words = [match.start() for match in re.finditer(r"\s", text[start:limit])]
            cut = start + words[-1] if words else limit
        yield start, start + len(text[start:cut].rstrip())
        start = _SPACE.match(text, cut, end).end()  # type: ignore[union-attr]
    yield start, end
