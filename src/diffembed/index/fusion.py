"""One ranking out of several: by ranks or by scores.

The functions take the hits of each search for the same queries, and ignore `NO_ROW`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import ConfigError
from diffembed.index.hits import NO_ROW, Hits, best, check_k

DENSE_WEIGHT = 0.25
"""Share of the dense search in `hybrid`; BM25 has the rest. Chosen with the built-in model, on six sets and on the
demo's questions: with FTS5's words any weight from 0.1 to 0.4 beats either search on the mean of the sets, 0.25 to 0.4
alike within 0.2 points of nDCG@10, and on the demo's questions 0.15 to 0.25 is best (records/search.md). A model as
good as BM25 wants more; `scripts/compare_search.py --dense-weight` measures it."""
CANDIDATES = 100
"""Hits of each search that `hybrid` fuses: their spread sets the scale, so it must not depend on how many are asked."""


def hybrid(dense: Hits, lexical: Hits, k: int, *, dense_weight: float = DENSE_WEIGHT) -> Hits:
    """Fuse a dense and a lexical search as this package does by default.

    Args:
        dense: Hits by meaning, at least `CANDIDATES` of them where there are so many.
        lexical: Hits by words, likewise.
        k: Hits per query; at most twice `CANDIDATES` can be had.
        dense_weight: From 0 (words alone) to 1 (meaning alone).
    """
    if not 0 <= dense_weight <= 1:
        raise ConfigError(
            f"the dense weight must be in 0..1, got {dense_weight}", hint="0 is BM25 alone, 1 dense alone"
        )
    return weighted_scores(_candidates(dense, lexical), k, weights=[dense_weight, 1 - dense_weight])


def by_ranks(dense: Hits, lexical: Hits, k: int) -> Hits:
    """Fuse a dense and a lexical search by reciprocal ranks, each weighing the same; depths as in `hybrid`."""
    return reciprocal_rank(_candidates(dense, lexical), k)


def _candidates(*searches: Hits) -> list[Hits]:
    return [Hits(each.scores[:, :CANDIDATES], each.rows[:, :CANDIDATES]) for each in searches]


def weighted_scores(searches: Sequence[Hits], k: int, *, weights: Sequence[float]) -> Hits:
    """Fuse by scores: the weighted sum, over the union of all hits, of how far each score stands above the lowest.

    The unit is the standard deviation of a search's scores for the query (a z-score, moved so that the lowest is 0). A
    row that a search didn't return gets 0 from it. Places behind the last hit count as the zeros that they hold: a
    single match among many texts that share no word with the query stands out, as it should.

    Source: a convex combination as in Bruch, Gai and Ingber 2023, arXiv:2210.11934, section 4.

    Args:
        searches: Hits of each search; scores of a search that pads with `NO_ROW` are positive.
        k: Hits per query.
        weights: One per search.
    """
    return _fuse(searches, [_above_lowest(search.scores) for search in searches], weights, k)


def reciprocal_rank(
    searches: Sequence[Hits], k: int, *, weights: Sequence[float] | None = None, constant: float = 60.0
) -> Hits:
    """Fuse by ranks: a row's score is the sum of weight / (constant + rank), the first rank being 1.

    Source: Cormack, Clarke and Buettcher 2009, "Reciprocal rank fusion outperforms Condorcet", which also gives the 60.

    Args:
        searches: Hits of each search.
        k: Hits per query.
        weights: One per search; all 1 when absent.
        constant: Larger values flatten the difference between the ranks.
    """
    points = []
    for search in searches:
        points_K = 1.0 / (constant + np.arange(1, search.rows.shape[1] + 1))
        points.append(np.broadcast_to(points_K, search.rows.shape))
    return _fuse(searches, points, [1.0] * len(searches) if weights is None else weights, k)


def _above_lowest(scores_BK: NDArray) -> NDArray[np.float64]:
    scores_BK = scores_BK.astype(np.float64)
    if not scores_BK.shape[1]:
        return scores_BK
    low_B1 = scores_BK.min(axis=1, keepdims=True)
    deviation_B1 = scores_BK.std(axis=1, keepdims=True)
    # Hits that all score the same can't be told apart: one deviation for each of them.
    is_spread_B1 = scores_BK.max(axis=1, keepdims=True) > low_B1
    return np.divide(scores_BK - low_B1, deviation_B1, out=np.ones_like(scores_BK), where=is_spread_B1)


def _fuse(searches: Sequence[Hits], points: Sequence[NDArray], weights: Sequence[float], k: int) -> Hits:
    check_k(k)
    if not searches or len(weights) != len(searches):
        raise ConfigError(
            f"{len(searches)} searches can't be fused with {len(weights)} weights", hint="give one weight per search"
        )
    if len({len(search.rows) for search in searches}) != 1:
        raise ConfigError(
            "the searches to be fused answer different numbers of queries", hint="search the same queries"
        )
    weighted_BM = np.hstack([weight * each for weight, each in zip(weights, points, strict=True)])
    rows_BM = np.hstack([search.rows for search in searches])
    width = min(k, rows_BM.shape[1])
    scores_BK = np.zeros((len(rows_BM), width), np.float32)
    rows_BK = np.full((len(rows_BM), width), NO_ROW, np.int64)
    for i, (rows_M, weighted_M) in enumerate(zip(rows_BM, weighted_BM, strict=True)):
        is_hit_M = rows_M != NO_ROW
        union, position = np.unique(rows_M[is_hit_M], return_inverse=True)
        total = np.bincount(position, weights=weighted_M[is_hit_M], minlength=len(union)).astype(np.float32)
        kept = best(total, width)
        scores_BK[i, : len(kept)] = total[kept]
        rows_BK[i, : len(kept)] = union[kept]
    return Hits(scores_BK, rows_BK)
