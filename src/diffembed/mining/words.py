"""Scores by words, and the ranking that words and vectors make together."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from diffembed.index.fusion import reciprocal_rank
from diffembed.index.hits import NO_ROW, Hits, best
from diffembed.index.lexical import Lexical

Rows = NDArray[np.int64]


class Words:
    """BM25 of queries and texts. An instruction's words don't count: they are the same in every query.

    Args:
        queries: Texts of the queries.
        texts: What is compared with them. All of them make the statistics of the words.
    """

    def __init__(self, queries: Sequence[str], texts: Sequence[str]) -> None:
        self._queries = queries
        self._lexical = Lexical(texts)
        self._latest = -1, np.empty(0, np.float32)

    def scores(self, query: int, rows: Rows) -> NDArray[np.float64]:
        """Of some texts, for one query; 0 for a text that shares no word with it."""
        return self._all(query)[rows].astype(np.float64)

    def search(self, queries: range, hidden: Sequence[Rows], num_texts: int, k: int) -> Iterator[Rows]:
        """Find the texts that score highest for each query; equal scores stand in the order of their rows.

        Args:
            queries: Their numbers.
            hidden: For each of them rows that are not to be found.
            num_texts: The first so many are searched.
            k: How many; fewer where fewer share a word with the query.
        """
        for query, hidden_N in zip(queries, hidden, strict=True):
            scores_P = self._all(query)[:num_texts].copy()
            scores_P[hidden_N] = 0
            rows = best(scores_P, k)
            yield rows[scores_P[rows] > 0]

    def _all(self, query: int) -> NDArray[np.float32]:
        # A query is searched for and then scored: the second time its scores are still here.
        if self._latest[0] != query:
            [scores_P] = self._lexical.scores([self._queries[query]])
            self._latest = query, scores_P
        return self._latest[1]


def fused(rankings: Sequence[Rows], k: int) -> Rows:
    """One ranking out of several by reciprocal ranks: no search's scores need to be comparable with another's."""
    width = max(len(rows) for rows in rankings)
    hits = []
    for rows in rankings:
        padded = np.full((1, width), NO_ROW, np.int64)
        padded[0, : len(rows)] = rows
        hits.append(Hits(np.zeros((1, width), np.float32), padded))
    rows = reciprocal_rank(hits, k).rows[0]
    return rows[rows != NO_ROW]
