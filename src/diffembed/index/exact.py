"""Exact nearest neighbours by inner product: the reference for every other search.

Shape letters: B queries, P passages, E embedding dims, K hits.
"""

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import DataError
from diffembed.index.hits import Hits, best, check_k

QUERY_BLOCK = 256
PASSAGE_BLOCK = 16_384
"""With `QUERY_BLOCK` this bounds the scores held at once to 16 MiB, whatever the size of the corpus."""


def search(query_BE: NDArray, passage_PE: NDArray, k: int) -> Hits:
    """Find the k passages with the largest inner product for each query.

    Passages are read in blocks and each block is converted to float32 on its own, so a memory-mapped or float16
    array is never loaded or copied whole.

    Args:
        query_BE: (queries, dims); unit rows make the score a cosine.
        passage_PE: (passages, dims).
        k: Hits per query; all passages when there are fewer.

    Returns:
        Scores and rows of shape (queries, min(k, passages)); equal scores stand in the order of their rows.

    Raises:
        DataError: The arrays don't fit each other, or hold a value that is not finite.
        ConfigError: k is not a positive integer.
    """
    check_k(k)
    if query_BE.ndim != 2 or passage_PE.ndim != 2 or query_BE.shape[1] != passage_PE.shape[1]:
        raise DataError(
            f"queries of shape {query_BE.shape} can't be searched in passages of shape {passage_PE.shape}",
            hint="both must be (rows, dims) with the same dims: embed them with the same model and the same dims",
        )
    width = min(k, len(passage_PE))
    scores_BK = np.empty((len(query_BE), width), np.float32)
    rows_BK = np.empty((len(query_BE), width), np.int64)
    for start in range(0, len(query_BE), QUERY_BLOCK):
        block = slice(start, start + QUERY_BLOCK)
        scores_BK[block], rows_BK[block] = _search_block(np.asarray(query_BE[block], np.float32), passage_PE, width)
    return Hits(scores_BK, rows_BK)


def _search_block(query_BE: NDArray[np.float32], passage_PE: NDArray, k: int) -> Hits:
    scores_BK = np.empty((len(query_BE), 0), np.float32)
    rows_BK = np.empty((len(query_BE), 0), np.int64)
    for start in range(0, len(passage_PE), PASSAGE_BLOCK):
        scores_BP = query_BE @ np.asarray(passage_PE[start : start + PASSAGE_BLOCK], np.float32).T
        if not np.isfinite(scores_BP).all():
            raise DataError(
                f"a score is not finite among passage rows {start} to {start + scores_BP.shape[1] - 1}",
                hint="the queries or these passages hold NaN or infinity: embed them again",
            )
        kept_BK = np.stack([best(scores_P, k) for scores_P in scores_BP])
        # What was kept before stands in front, so at equal scores the lower row still wins.
        scores_BM = np.hstack([scores_BK, np.take_along_axis(scores_BP, kept_BK, axis=1)])
        rows_BM = np.hstack([rows_BK, kept_BK + start])
        order_BK = np.stack([best(scores_M, k) for scores_M in scores_BM])
        scores_BK = np.take_along_axis(scores_BM, order_BK, axis=1)
        rows_BK = np.take_along_axis(rows_BM, order_BK, axis=1)
    return Hits(scores_BK, rows_BK)
