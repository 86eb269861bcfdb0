"""The texts that may become negatives, each once, and which of them are known to answer which query."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffembed.data.example_store import fingerprint
from diffembed.data.examples import Example


@dataclass(frozen=True, slots=True)
class Passage:
    """A document of a corpus.

    Attributes:
        text: Its body.
        title: May be empty.
    """

    text: str
    title: str = ""

    @property
    def whole(self) -> str:
        """Title and text, joined by a space as BEIR does."""
        return f"{self.title} {self.text}".strip()


class Pool:
    """Texts with a number each: first the candidates, then positives that are none. Texts are equal by fingerprint.

    The candidates are the corpus in its own order, or without one all positives and negatives of the examples, in the
    order of their fingerprints: what a query gets then doesn't depend on the order of the examples. All texts are held
    in memory.

    A query's answers are the positives of each example with an equal query, whatever its instruction, and of each
    example with the same topic. A document of the corpus is known by its text without the title too.

    Args:
        examples: Whose queries get negatives.
        corpus: Candidates in place of the examples' texts.
    """

    def __init__(self, examples: Sequence[Example], corpus: Iterable[Passage | str] | None = None) -> None:
        self.duplicates = 0
        """Candidates that say the same as one before."""
        self.blank = 0
        """Documents of the corpus without text."""
        self.texts: list[str] = []
        self._row_of: dict[int, int] = {}
        self._by_body: dict[int, list[int]] = {}
        if corpus is None:
            self._add_candidates(examples)
        else:
            self._add_corpus(corpus)
        self.num_candidates = len(self.texts)
        """They have the first numbers."""
        self._add_texts(text for example in examples for text in example.positives)
        self._answers = self._known_answers(examples)

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Numbers of positives."""
        return np.array([self._row_of[fingerprint(text)] for text in texts], np.int64)

    def hidden(self, example: Example) -> NDArray[np.int64]:
        """Candidates that must not become negatives of an example: its query's answers, and the query itself."""
        known = self._candidates(fingerprint(example.query))
        for key in _keys(example):
            known |= self._answers[key]
        return np.array(sorted(known), np.int64)

    def _add_candidates(self, examples: Sequence[Example]) -> None:
        before = sum(len(example.positives) + len(example.negatives) for example in examples)
        self._add_texts(text for example in examples for text in (*example.positives, *example.negatives))
        self.duplicates = before - len(self.texts)

    def _add_texts(self, texts: Iterable[str]) -> None:
        """Add what isn't there, in an order (and of equal texts one) that doesn't depend on the order of the texts."""
        new: dict[int, str] = {}
        for text in texts:
            key = fingerprint(text)
            if key not in self._row_of:
                new[key] = min(text, new.get(key, text))
        for key in sorted(new):
            self._row_of[key] = len(self.texts)
            self.texts.append(new[key])

    def _add_corpus(self, corpus: Iterable[Passage | str]) -> None:
        for each in corpus:
            passage = Passage(each) if isinstance(each, str) else each
            key, body = fingerprint(passage.whole), fingerprint(passage.text)
            if not key:
                self.blank += 1
                continue
            if key in self._row_of:
                self.duplicates += 1
            else:
                self._row_of[key] = len(self.texts)
                self.texts.append(passage.whole)
            if body not in (key, 0):
                self._by_body.setdefault(body, []).append(self._row_of[key])

    def _candidates(self, key: int) -> set[int]:
        """Candidates of this fingerprint, with their title or without."""
        row = self._row_of.get(key, self.num_candidates)
        return {*self._by_body.get(key, ()), *([row] if row < self.num_candidates else [])}

    def _known_answers(self, examples: Sequence[Example]) -> dict[tuple[str, int], set[int]]:
        answers: dict[tuple[str, int], set[int]] = {}
        for example in examples:
            rows = set().union(*(self._candidates(fingerprint(text)) for text in example.positives))
            for key in _keys(example):
                answers.setdefault(key, set()).update(rows)
        return answers


def _keys(example: Example) -> list[tuple[str, int]]:
    keys = [("query", fingerprint(example.query))]
    return keys if not example.topic else [*keys, ("topic", fingerprint(example.topic))]
