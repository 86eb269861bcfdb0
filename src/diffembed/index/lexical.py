"""BM25 over plain texts."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from diffembed.index.hits import NO_ROW, Hits, best, check_k


class Lexical:
    """BM25 (Lucene's form, k1 1.5, b 0.75: the defaults of bm25s) with English stop words and no stemmer.

    Args:
        texts: What is searched; a text's row is its position here. May be empty, and so may each text.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        import bm25s  # not everyone who searches arrays needs it

        self._size = len(texts)
        corpus = bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
        self._bm25 = None
        if corpus.vocab:  # type: ignore[union-attr]
            self._bm25 = bm25s.BM25()
            self._bm25.index(corpus, show_progress=False)

    def __len__(self) -> int:
        return self._size

    def search(self, queries: Sequence[str], k: int) -> Hits:
        """Find the k texts that score highest for each query.

        A text that shares no word with the query is no hit: such places hold row `NO_ROW` and score 0.

        Args:
            queries: Plain questions; one without any known word has no hits.
            k: Hits per query.

        Returns:
            Scores and rows of shape (queries, min(k, texts)); equal scores stand in the order of their rows.

        Raises:
            ConfigError: k is not a positive integer.
        """
        check_k(k)
        width = min(k, self._size)
        scores_BK = np.zeros((len(queries), width), np.float32)
        rows_BK = np.full((len(queries), width), NO_ROW, np.int64)
        for i, scores_P in enumerate(self.scores(queries)):
            rows = best(scores_P, width)
            rows = rows[scores_P[rows] > 0]
            scores_BK[i, : len(rows)] = scores_P[rows]
            rows_BK[i, : len(rows)] = rows
        return Hits(scores_BK, rows_BK)

    def scores(self, queries: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Give the scores of all texts for each query in turn; 0 where they share no word."""
        import bm25s

        if self._bm25 is None or not queries:
            yield from (np.zeros(self._size, np.float32) for _ in queries)
            return
        tokens = bm25s.tokenize(list(queries), stopwords="en", return_ids=False, show_progress=False)
        for words in tokens:
            yield self._bm25.get_scores_from_ids(self._bm25.get_tokens_ids(words))  # type: ignore[arg-type]
