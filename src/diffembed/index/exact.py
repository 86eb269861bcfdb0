"""Exact nearest neighbours by inner product: the reference for every other search.

Shape letters: B queries, P passages, E embedding dims, K hits.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from diffembed.errors import DataError
from diffembed.index.hits import Hits, best, check_k

QUERY_BLOCK = 256
PASSAGE_BLOCK = 4_096
"""6 MB of float32 at 384 dims: to convert, to multiply and to look for the best then stay in a CPU's caches. Blocks of
16,384 take twice as long (LOG.md). With `QUERY_BLOCK` it bounds the scores held at once to 4 MiB."""


class NotFiniteError(DataError):
    """A score came out as no number."""


def search(query_BE: NDArray, passage_PE: NDArray, k: int) -> Hits:
    """Find the k passages with the largest inner product for each query.

    Args:
        query_BE: (queries, dims); unit rows make the score a cosine.
        passage_PE: (passages, dims).
        k: Hits per query; all passages when there are fewer.

    Returns:
        Scores and rows of shape (queries, min(k, passages)); equal scores stand in the order of their rows. Equal
        passages may have scores that differ in the last bit: in a product of matrices it depends on their places.

    Raises:
        DataError: The arrays don't fit each other, or hold a value that is not finite.
        ConfigError: k is not a positive integer.
    """
    return search_parts(query_BE, [passage_PE], k)


def search_parts(
    query_BE: NDArray, parts: Iterable[NDArray], k: int, *, is_wanted_P: NDArray[np.bool_] | None = None
) -> Hits:
    """Like `search`, over passages that lie in several arrays, one behind the other, each of which is read once.

    They are read in blocks and each block is converted to float32 on its own, so a memory-mapped array is never loaded
    or copied whole. A part may also hold int8 rows with their scales (see `scaled_int8`).

    Args:
        query_BE: (queries, dims).
        parts: Arrays of (passages, dims), or of `scaled_int8` records.
        k: Hits per query.
        is_wanted_P: For each passage of all parts together, whether it may be a hit.

    Returns:
        Scores and rows of shape (queries, min(k, wanted passages)); rows count through all parts.

    Raises:
        DataError: A part doesn't fit the queries, or a wanted passage or one near it holds a value that is not finite.
        ConfigError: k is not a positive integer.
    """
    check_k(k)
    if query_BE.ndim != 2:
        raise DataError(f"queries must be (rows, dims), got shape {query_BE.shape}", hint="pass a list of vectors")
    # What is not finite is an error below, so numpy's warnings about it would be said twice.
    with np.errstate(over="ignore", invalid="ignore"):
        starts = range(0, max(len(query_BE), 1), QUERY_BLOCK)
        found = [_Kept(query_BE[start : start + QUERY_BLOCK], k) for start in starts]
        first = 0
        for part in parts:
            for block_PE, scale_P in _blocks(query_BE.shape, part):
                is_wanted = None if is_wanted_P is None else is_wanted_P[first : first + len(block_PE)]
                if is_wanted is not None and is_wanted.all():
                    is_wanted = None
                if is_wanted is None or is_wanted.any():
                    for each in found:
                        each.look_at(block_PE, scale_P, first, is_wanted)
                first += len(block_PE)
    return Hits(np.concatenate([each.scores_BK for each in found]), np.concatenate([each.rows_BK for each in found]))


def scaled_int8(dims: int) -> np.dtype:
    """A row of `dims` int8 values and the float32 that they are multiplied by."""
    return np.dtype([("values", np.int8, (dims,)), ("scale", np.float32)])


class _Kept:
    """The best hits of a block of queries so far."""

    def __init__(self, query_BE: NDArray, k: int) -> None:
        self._query_BE = np.asarray(query_BE, np.float32)
        self._k = k
        self.scores_BK = np.empty((len(query_BE), 0), np.float32)
        self.rows_BK = np.empty((len(query_BE), 0), np.int64)

    def look_at(
        self, block_PE: NDArray, scale_P: NDArray | None, first: int, is_wanted_P: NDArray[np.bool_] | None
    ) -> None:
        scores_BP = self._query_BE @ block_PE.T
        if scale_P is not None:
            scores_BP *= scale_P
        if not np.isfinite(scores_BP).all():
            raise NotFiniteError(
                f"a score is not finite among passage rows {first} to {first + scores_BP.shape[1] - 1}",
                hint="the queries or these passages hold NaN or infinity: embed them again",
            )
        rows_P = np.arange(first, first + scores_BP.shape[1])
        if is_wanted_P is not None:
            # Three times as fast as to index both by the mask: with a million rows that is felt.
            wanted = np.flatnonzero(is_wanted_P)
            scores_BP, rows_P = scores_BP.take(wanted, axis=1), rows_P[wanted]
        is_full = self.scores_BK.shape[1] == self._k
        if is_full and (scores_BP.max(axis=1, initial=-np.inf) <= self.scores_BK[:, -1]).all():
            return  # nothing here is better than the last that is kept
        kept_BK = _best(scores_BP, self._k)
        # What was kept before stands in front, so at equal scores the lower row still wins.
        scores_BM = np.hstack([self.scores_BK, np.take_along_axis(scores_BP, kept_BK, axis=1)])
        rows_BM = np.hstack([self.rows_BK, rows_P[kept_BK]])
        order_BK = _best(scores_BM, self._k)
        self.scores_BK = np.take_along_axis(scores_BM, order_BK, axis=1)
        self.rows_BK = np.take_along_axis(rows_BM, order_BK, axis=1)


def _best(scores_BM: NDArray, k: int) -> NDArray[np.int64]:
    columns_BK = np.empty((len(scores_BM), min(k, scores_BM.shape[1])), np.int64)
    for columns_K, scores_M in zip(columns_BK, scores_BM, strict=True):
        columns_K[:] = best(scores_M, k)
    return columns_BK


def _blocks(query_shape: tuple[int, ...], part: NDArray) -> Iterator[tuple[NDArray[np.float32], NDArray | None]]:
    """Blocks of a part as float32, with the scales that their scores are to be multiplied by."""
    values_PE = part["values"] if part.dtype.names else part
    if values_PE.ndim != 2 or values_PE.shape[1] != query_shape[1]:
        raise DataError(
            f"queries of shape {query_shape} can't be searched in passages of shape {values_PE.shape}",
            hint="both must be (rows, dims) with the same dims: embed them with the same model and the same dims",
        )
    # One buffer for all blocks: fresh memory costs more than the conversion.
    is_wide = values_PE.dtype == np.float32
    buffer_PE = np.empty((0 if is_wide else min(PASSAGE_BLOCK, len(part)), values_PE.shape[1]), np.float32)
    for start in range(0, len(part), PASSAGE_BLOCK):
        block_PE = values_PE[start : start + PASSAGE_BLOCK]
        scale_P = part["scale"][start : start + PASSAGE_BLOCK] if part.dtype.names else None
        yield block_PE if is_wide else to_float32(block_PE, buffer_PE[: len(block_PE)]), scale_P


def to_float32(array: NDArray, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Copy into `out` as float32; of float16 five times as fast as numpy, which converts halves one by one."""
    if array.dtype != np.float16:
        np.copyto(out, array)
        return out
    # A half's exponent and mantissa, moved up 13 bits, are those of a float32 that is 2^112 times too small.
    bits = out.view(np.int32)
    np.copyto(bits, array.view(np.int16))
    np.left_shift(bits, 13, out=bits)
    # The sign (sign extension brought it to the top), 5 bits of exponent, 10 of mantissa.
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)
    np.multiply(out, np.float32(2.0**112), out=out)
    # The largest exponent stands for infinity and NaN: they come out as 65,536 and more, which no half is.
    if out.size and max(out.max(), -out.min()) >= 65_536:
        np.copyto(out, array)
    return out
