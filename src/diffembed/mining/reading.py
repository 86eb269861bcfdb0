"""Rows on disk as examples and as a corpus."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from diffembed.data.examples import Example
from diffembed.data.readers import read_examples as read_any
from diffembed.data.sources import read_rows
from diffembed.mining.pool import Passage


def read_examples(data: str | os.PathLike[str], layout: str | None = None, split: str = "train") -> Iterator[Example]:
    """Yield the examples of training data in any layout (`diffembed.data.readers`).

    Scores are left out: they belong to the negatives that mining replaces.

    Raises:
        DataError: A row makes no example, or has a misspelt key; names file and line.
    """
    return (replace(example, scores=None) for example in read_any(data, layout=layout, split=split))


def read_corpus(path: Path) -> Iterator[Passage]:
    """Yield the documents of BEIR's `corpus.jsonl` (.gz and .xz too): rows `{_id, title, text}`, the id unread.

    Raises:
        DataError: A row has no text; names file and line.
    """
    for row in read_rows(path):
        yield Passage(text=row.text("text"), title=row.text("title") if row.values.get("title") is not None else "")
