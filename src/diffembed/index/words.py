"""BM25 over the chunks of an index, kept by SQLite's FTS5 in the same file and transaction as the chunks.

FTS5 and not bm25s, which `diffembed.index.lexical` uses for searches in memory: it takes additions and removals one at
a time, needs nothing in memory, is there at once when a search starts, and finds more (records/search.md): its
stemmer takes "copied" for "copy". Its BM25 has k1 1.2 and b 0.75.
"""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import pairwise

_ENGLISH = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
    "this to was will with"
)
STOP_WORDS = frozenset(_ENGLISH.split())
"""Lucene's English ones. They are in the index (a title may consist of them), but a question is searched without."""
MAX_WORDS = 128
"""Of a query: the first ones that are different. A pasted page would otherwise be searched for word by word."""
# Scripts that put no space between words: FTS5 would take a whole sentence for one word.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003fffd"
)
UNSPACED = re.compile(f"[{_UNSPACED}]")
# With the accents that may follow a letter as characters of their own: they are part of its word.
WORD = re.compile(rf"[{_UNSPACED}]+|[^\W{_UNSPACED}](?:[^\W{_UNSPACED}]|[\u0300-\u036f])*")
# Bullets and icons of a PDF's fonts come as private characters, which FTS5 would take for letters of the next word;
# at a NUL it ends a highlighted text, and half a surrogate pair can't be stored.
NO_LETTER = re.compile("[\0\ud800-\uf8ff]")
OPEN, CLOSE = "\ue000", "\ue001"
"""Marks around a word: from the private use area, which no font and no text relies on."""
TOKENIZER = "porter unicode61 remove_diacritics 2"

SCHEMA = f"CREATE VIRTUAL TABLE words USING fts5(title, body, content='', tokenize='{TOKENIZER}')"


def add(db: sqlite3.Connection, rows: Iterable[tuple[int, str, str]]) -> None:
    """Index texts: number, title and body of each."""
    db.executemany("INSERT INTO words(rowid, title, body) VALUES (?, ?, ?)", map(_spaced_row, rows))


def remove(db: sqlite3.Connection, rows: Iterable[tuple[int, str, str]]) -> None:
    """Take texts out; they must be given as they were put in."""
    db.executemany("INSERT INTO words(words, rowid, title, body) VALUES ('delete', ?, ?, ?)", map(_spaced_row, rows))


def query(text: str) -> str | None:
    """A question as an FTS5 expression: any of its words; None if it has none.

    Words are quoted, so that no character of a question is an operator.
    """
    found: dict[str, str] = {}
    for run in WORD.findall(text):
        for word in _pairs(run) if UNSPACED.match(run) else [run]:
            # As it stands: FTS5 folds case in its own way, and in texts and questions alike.
            found.setdefault(word.lower(), word)
    telling = [word for small, word in found.items() if small not in STOP_WORDS] or list(found.values())
    return " OR ".join(f'"{_spaced(word)}"' for word in telling[:MAX_WORDS]) or None


def _pairs(run: str) -> list[str]:
    """A run of characters of a script without spaces as two at a time, each but the ends in two pairs.

    Where its words end is not known, and as one long word it would be found in no text but those that repeat it. What
    is no letter (vowels above and below, in Thai) FTS5 leaves out, so the letters around it stand side by side.
    """
    letters = [character for character in run if character.isalnum()]
    return [first + second for first, second in pairwise(letters)] or letters


def search(
    db: sqlite3.Connection, text: str, k: int, where: str = "", parameters: Sequence = ()
) -> list[tuple[int, float]]:
    """The k best texts for a question: number and score, larger is better; equal scores in the order of the numbers.

    Args:
        db: Where the table is.
        text: The question.
        k: How many.
        where: A condition on `rowid` that starts with AND.
        parameters: Its values.
    """
    expression = query(text)
    if expression is None:
        return []
    # FTS5's scores are negative, the best the lowest; SQLite takes Python's integers of 64 bits alone.
    return db.execute(
        "SELECT rowid, -bm25(words) AS score FROM words "
        f"WHERE words MATCH ? {where} ORDER BY score DESC, rowid LIMIT ?",
        (expression, *parameters, min(int(k), 2**63 - 1)),
    ).fetchall()


def marked(text: str, passages: Sequence[str]) -> list[list[tuple[int, int]]]:
    """For each passage the spans, in characters, of the words that a question shares with it, as the index sees it."""
    expression = query(text)
    if expression is None or not passages:
        return [[] for _ in passages]
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute(f"CREATE VIRTUAL TABLE words USING fts5(body, tokenize='{TOKENIZER}')")
        clean = [NO_LETTER.sub(" ", passage) for passage in passages]
        db.executemany("INSERT INTO words(rowid, body) VALUES (?, ?)", enumerate(map(_spaced, clean)))
        found = db.execute(
            "SELECT rowid, highlight(words, 0, ?, ?) FROM words WHERE words MATCH ?", (OPEN, CLOSE, expression)
        )
        spans = dict(found)
    return [_spans(passage, spans.get(row, "")) for row, passage in enumerate(clean)]


def _spans(passage: str, highlighted: str) -> list[tuple[int, int]]:
    """Where the marks stand in the passage, which has fewer spaces than what was indexed of it."""
    spans, start, position = [], 0, 0
    for character in highlighted:
        if character == OPEN:
            start = position
        elif character == CLOSE:
            spans.append((start, position))
        elif position < len(passage) and passage[position] == character:
            position += 1
    return spans


def _spaced_row(row: tuple[int, str, str]) -> tuple[int, str, str]:
    number, title, body = row
    return number, _spaced(title), _spaced(body)


def _spaced(text: str) -> str:
    # Texts are taken out as they were put in: whoever changes this, or the tokenizer, changes the index's FORMAT too.
    return text if text.isascii() else UNSPACED.sub(r" \g<0> ", NO_LETTER.sub(" ", text))
