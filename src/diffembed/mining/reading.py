"""Rows on disk as examples and as a corpus."""

import difflib
from collections.abc import Iterator
from pathlib import Path

from diffembed.data.examples import Example
from diffembed.data.sources import Row, read_rows
from diffembed.errors import DataError
from diffembed.mining.pool import Passage

KIND = "query->passage"
"""Of a row that says nothing about how its query and answer are related."""
KEYS = (
    *("query", "positives", "positive", "negatives", "negative", "scores", "source", "kind", "instruction", "topic"),
    "chunks",
)


def read_examples(path: Path) -> Iterator[Example]:
    """Yield the examples of a JSON-lines file (.gz and .xz too), in the form in which `write` writes them.

    Rows are `{query, positives, negatives, source, kind, instruction, topic, chunks}`; all but the first two may be
    absent. A single text may stand for a list, and under `positive` or `negative`. Scores are left out: they belong to
    the negatives that mining replaces.

    Raises:
        DataError: A row makes no example, or has a misspelt key; names file and line.
    """
    name = path.name.split(".")[0]
    for row in read_rows(path):
        _refuse_misspelt(row)
        try:
            yield Example(
                query=row.text("query"),
                positives=_texts(row, "positives", "positive"),
                negatives=_texts(row, "negatives", "negative"),
                source=_text(row, "source") or name,
                kind=_text(row, "kind") or KIND,
                instruction=_text(row, "instruction"),
                topic=_text(row, "topic") or None,
                chunks=_texts(row, "chunks") or None,
            )
        except DataError as error:
            if row.place in error.message:
                raise
            raise DataError(f"{row.place}: {error.message}", hint=error.hint) from None


def read_corpus(path: Path) -> Iterator[Passage]:
    """Yield the documents of BEIR's `corpus.jsonl` (.gz and .xz too): rows `{_id, title, text}`, the id unread.

    Raises:
        DataError: A row has no text; names file and line.
    """
    for row in read_rows(path):
        yield Passage(text=row.text("text"), title=_text(row, "title") or "")


def _texts(row: Row, *names: str) -> tuple[str, ...]:
    found = [(name, row.values[name]) for name in names if row.values.get(name) is not None]
    if len(found) > 1:
        raise DataError(f"{row.place} has both `{names[0]}` and `{names[1]}`", hint="keep one of them")
    for name, value in found:
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise DataError(
                f"{row.place}: `{name}` must be texts, got {str(value)[:60]!r}", hint="write a list of strings"
            )
        return tuple(texts)
    return ()


def _text(row: Row, name: str) -> str | None:
    return None if row.values.get(name) is None else row.text(name)


def _refuse_misspelt(row: Row) -> None:
    for key in row.values:
        if key not in KEYS and (near := difflib.get_close_matches(key, KEYS, n=1, cutoff=0.8)):
            raise DataError(f"{row.place} has the unknown key `{key}`", hint=f"did you mean `{near[0]}`?")
